"""How far a long call is: a line on a terminal that counts, a few plain lines in a pipe."""

import sys
from collections.abc import Callable

Progress = Callable[[int, int | None], None]
"""Called with the number of passes that are done, and of all, None while not known."""


def reporter(progress: bool | Progress, total: int | None) -> Callable[[], None]:
    """Return a function to call after each pass.

    Args:
        progress: False for silence, True for standard error, or who else is to be told.
        total: number of passes, if known.

    Raises:
        TypeError: if progress is none of these.
    """
    if not isinstance(progress, bool) and not callable(progress):
        raise TypeError(
            f"progress={progress!r}: must be True, False or a function of (done, total); True "
            "shows it on standard error."
        )
    tell = (_on_terminal if sys.stderr.isatty() else _in_pipe) if progress is True else progress
    done = 0

    def report() -> None:
        nonlocal done
        done += 1
        if tell:
            tell(done, total)

    return report


def _on_terminal(done: int, total: int | None) -> None:
    end = "\n" if done == total else ""
    sys.stderr.write(f"\rpredict: {_share(done, total)}{end}")
    sys.stderr.flush()


def _in_pipe(done: int, total: int | None) -> None:
    every = max(total // 10, 1) if total else 100
    if done % every == 0 or done == total:
        sys.stderr.write(f"predict: {_share(done, total)}\n")


def _share(done: int, total: int | None) -> str:
    return f"{done}/{total}" if total else str(done)
