"""Carry out the runs of a comparison, several at a time, and go on where it was stopped."""

import signal
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing import active_children, get_context
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from bsam.experiments import runs
from bsam.experiments.recipes import Recipe, recipe


class Plan(NamedTuple):
    """What to run and how."""

    data: str
    methods: Sequence[str]
    seeds: Sequence[int]
    root: Path
    """Where the run folders are."""
    jobs: int = 1
    device: str = "cpu"
    changes: Mapping[str, Any] = MappingProxyType({})
    """Fields of the recipes that are not as usual."""

    def recipes(self) -> list[Recipe]:
        """Return the recipes, all of a seed before those of the next: what is done is paired."""
        return [
            recipe(self.data, method, seed, **self.changes)
            for seed in self.seeds
            for method in self.methods
        ]

    def folders(self) -> list[Path]:
        """Return the folders of all runs."""
        return [runs.folder_of(self.root, each) for each in self.recipes()]

    def finished(self) -> list[runs.Run]:
        """Read the runs that are finished."""
        return [runs.load(folder) for folder in self.folders() if runs.is_finished(folder)]


def carry_out(plan: Plan, advance: Callable[[str], None]) -> None:
    """Make the runs that are not finished yet.

    Args:
        plan: what to run. The numbers do not depend on the number of jobs.
        advance: called with the name of each run that is done or was there already.

    Raises:
        ValueError: before anything is trained, if a folder holds a run with other settings.
        KeyboardInterrupt: after Ctrl-C; finished runs stay, and the same plan goes on from there.
    """
    waiting = []
    for each, folder in zip(plan.recipes(), plan.folders(), strict=True):
        runs.prepare(folder, each)
        if runs.is_finished(folder):
            advance(f"{_name(each)} (was there)")
        else:
            waiting.append((each, folder, plan.device))
    if plan.jobs == 1:
        for task in waiting:
            advance(_run(task))
    elif waiting:
        _in_processes(waiting, min(plan.jobs, len(waiting)), advance)


def _in_processes(waiting: list[Any], jobs: int, advance: Callable[[str], None]) -> None:
    context = get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_start_worker) as pool:
        with _deaf_to_ctrl_c():  # workers, while they start too: it is for the one who waits
            futures = [pool.submit(_run, task) for task in waiting]
        try:
            for future in as_completed(futures):
                advance(future.result())
        except BaseException:
            # Nothing is lost: files are written whole, and a run goes on from its checkpoint.
            for process in active_children():
                process.terminate()
            raise


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def _deaf_to_ctrl_c() -> Generator[None, None, None]:
    """Have processes that are started inside inherit that Ctrl-C is ignored."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _run(task: tuple[Recipe, Path, str]) -> str:
    each, folder, device = task
    for _ in runs.run(each, folder, device=device):
        pass
    return _name(each)


def _name(each: Recipe) -> str:
    return f"{each.method}, seed {each.seed}"
