"""How far a long command is: a bar on a terminal, plain lines in a pipe."""

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Advance = Callable[[str], None]
"""Says that one more unit is done, and which."""


@contextmanager
def progress(total: int) -> Generator[Advance, None, None]:
    """Show on standard error how many of ``total`` units are done."""
    console = Console(file=sys.stderr)
    if not console.is_terminal:
        yield _plain(total)
        return
    columns = (TextColumn("{task.description:16}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task("", total=total)

        def advance(unit: str) -> None:
            bar.update(task, advance=1, description=unit)

        yield advance


def _plain(total: int) -> Advance:
    done = 0

    def advance(unit: str) -> None:
        nonlocal done
        done += 1
        print(f"[{done}/{total}] {unit}", file=sys.stderr, flush=True)

    return advance
