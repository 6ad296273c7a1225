"""C++ source built by the compiler that is there, once for each machine, and loaded.

Two commands and :mod:`ctypes` do: a source that includes nothing of torch compiles in two seconds,
where an extension of torch takes half a minute, and what comes of it fits every version of torch.
"""

import ctypes
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from bsam.files import written_whole

# For the vectors that this processor has. No -ffast-math: linked into a library it would change
# how the whole process rounds, and no NaN would be seen.
_FLAGS = ["-std=c++17", "-O3", "-march=native", "-fopenmp", "-fPIC"]
_FLAGS += ["-fno-math-errno", "-fno-trapping-math"]


def load(source: Path) -> ctypes.CDLL:
    """Build a source for this machine and load it; the next process finds it built.

    It is kept in ``$XDG_CACHE_HOME/bsam``, else ``~/.cache/bsam``; where nothing can be kept, each
    process builds it. The compiler is ``$CXX``, else ``g++`` or ``c++``. Threads are those of the
    OpenMP that torch has loaded: those of a second one would fight with them for the processor.

    Args:
        source: a C++ file.

    Raises:
        OSError: if this is not Linux, if there is no compiler, or if it or the loader failed.
    """
    if sys.platform != "linux":
        raise OSError(f"kernels are built on Linux alone, and this is {sys.platform}")
    compiler = _compiler()
    name = f"{source.stem}-{_digest(source, compiler)}.so"
    kept = _cache() / name
    if kept.exists():
        try:
            return ctypes.CDLL(str(kept))
        except OSError:
            pass  # damaged, or of another system that shares this home: built again
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder) / name
        _build(source, compiler, built)
        return ctypes.CDLL(str(kept if _keep(built, kept) else built))


def _compiler() -> list[str]:
    if given := shlex.split(os.environ.get("CXX", "")):
        return given
    found = shutil.which("g++") or shutil.which("c++")
    if found is None:
        raise OSError("no C++ compiler: set CXX, or put g++ or c++ on the PATH")
    return [found]


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "bsam"


def _keep(built: Path, kept: Path) -> bool:
    if not kept.is_absolute():  # no home is known
        return False
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(kept) as temporary:
            shutil.copyfile(built, temporary)
    except OSError:
        return False
    return True


def _digest(source: Path, compiler: list[str]) -> str:
    """Tell apart all that decides what is built: unlike machines may share a home."""
    parts = [source.read_text(), _run([*compiler, "--version"]), *compiler, *_FLAGS, _processor()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _processor() -> str:
    """What the system says of the processor's kind and its instructions."""
    told = ("model name", "flags", "Features", "CPU part")
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return "\n".join(sorted({line for line in lines if line.startswith(told)}))


def _build(source: Path, compiler: list[str], built: Path) -> None:
    parts = built.with_suffix(".o")
    _run([*compiler, *_FLAGS, "-c", str(source), "-o", str(parts)])
    # Without -fopenmp, so that the loader takes the library that is there already.
    _run([*compiler, "-shared", str(parts), "-o", str(built)])


def _run(command: list[str]) -> str:
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout
    except subprocess.CalledProcessError as error:
        raise OSError(f"{shlex.join(command)} failed: {error.stderr.strip()}") from error
