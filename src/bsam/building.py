"""C++ source built by the compiler that is there, once for each machine, and loaded.

Two commands and :mod:`ctypes` do: a source that includes nothing of torch compiles in two seconds,
where an extension of torch takes half a minute, and what comes of it fits every version of torch.
"""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

from bsam.files import written_whole

# For the vectors that this processor has. No -ffast-math: linked into a library it would change
# how the whole process rounds, and no NaN would be seen.
_FLAGS = ["-std=c++17", "-O3", "-march=native", "-fopenmp", "-fPIC"]
_FLAGS += ["-fno-math-errno", "-fno-trapping-math"]


def load(source: Path) -> ctypes.CDLL:
    """Build a source for this machine and load it; the next process finds it built.

    It is kept in ``$XDG_CACHE_HOME/bsam``, else ``~/.cache/bsam``, and needs no compiler from then
    on; where nothing can be kept, each process builds it. The compiler is ``$CXX``, else ``g++`` or
    ``c++``. Threads are those of the OpenMP that torch has loaded: those of a second one would
    fight with them for the processor.

    Args:
        source: a C++ file.

    Raises:
        OSError: if there is no compiler, or if it or the loader failed, as one for another system
            than Linux may.
    """
    name = f"{source.stem}-{_digest_of(source)}"
    cache = _cache()
    for kept in cache.glob(f"{name}-*.so") if cache else ():
        with suppress(OSError):  # of another system that shares this home
            # Of a damaged one, loading may be the end of the process.
            if kept.name == _name_of(name, kept):
                return ctypes.CDLL(str(kept))
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder) / "built.so"
        _build(source, _compiler(), built)
        if cache:
            _keep(built, cache / _name_of(name, built))
        return ctypes.CDLL(str(built))


def _compiler() -> list[str]:
    try:
        given = shlex.split(os.environ.get("CXX", ""))
    except ValueError as error:
        raise OSError(f"CXX={os.environ['CXX']!r}: {error}") from error
    if given:
        return given
    found = shutil.which("g++") or shutil.which("c++")
    if found is None:
        raise OSError("no C++ compiler: set CXX, or put g++ or c++ on the PATH")
    return [found]


def _cache() -> Path | None:
    given = (os.environ.get("XDG_CACHE_HOME", ""), os.path.expanduser("~/.cache"))
    # Relative ones are to be ignored; that of the home is relative where no home is known.
    return next((Path(each) / "bsam" for each in given if os.path.isabs(each)), None)


def _keep(built: Path, kept: Path) -> None:
    with suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(kept) as temporary:
            shutil.copyfile(built, temporary)


def _name_of(name: str, library: Path) -> str:
    """Return the name of a library to be kept, which tells what is in it."""
    return f"{name}-{hashlib.sha256(library.read_bytes()).hexdigest()[:16]}.so"


def _digest_of(source: Path) -> str:
    """Tell apart what decides whether a library will do: unlike machines may share a home."""
    parts = [source.read_text(), *_FLAGS, platform.machine(), _processor()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _processor() -> str:
    """What the system says of the processor's kind and instructions, else the machine's name."""
    told = ("model name", "flags", "Features", "CPU part")
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    kinds = sorted({line for line in lines if line.startswith(told)})
    return "\n".join(kinds or [platform.node()])


def _build(source: Path, compiler: list[str], built: Path) -> None:
    parts = built.with_suffix(".o")
    _run([*compiler, *_FLAGS, "-c", str(source), "-o", str(parts)])
    # Without -fopenmp, so that the loader takes the library that is there already.
    _run([*compiler, "-shared", str(parts), "-o", str(built)])


def _run(command: list[str]) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, errors="replace")
    except subprocess.CalledProcessError as error:
        words = " ".join(error.stderr.split()[:60]) or f"exit status {error.returncode}, no message"
        raise OSError(f"{shlex.join(command)} failed: {words}") from error
