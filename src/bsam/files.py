"""Files written whole or not at all."""

import os
import secrets
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(path: str | os.PathLike[str]) -> Generator[Path, None, None]:
    """Yield the name of a temporary file beside ``path`` that takes its place at the end.

    What stood at ``path`` stays until all is written, and stays for good if an exception ends the
    block; no other file is left behind.

    Args:
        path: the file to write; its folder must exist.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from bsam.files import written_whole
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with written_whole(Path(folder) / "a.txt") as temporary:
        ...         _ = temporary.write_text("all of it")
        ...     (Path(folder) / "a.txt").read_text()
        'all of it'
    """
    path = Path(path).resolve()  # a link stays one
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # some writers make files that nobody else may read
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
