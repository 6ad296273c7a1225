"""What the benchmarks share: interleaved timing, and results that say where they came from."""

import datetime
import importlib.metadata
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "jax", "optax", "ivon-opt", "pytorch-optimizer", "triton")


def interleaved(
    calls: Mapping[str, Callable[[], Any]],
    repeats: int,
    warmup: int = 1,
    prepare: Callable[[str], None] = lambda _: None,
) -> dict[str, list[float]]:
    """Time calls in turn, so that a slow moment of the machine meets all of them.

    Args:
        calls: by name.
        repeats: how many timed rounds.
        warmup: rounds before them, for compilers and caches.
        prepare: what to do before each call, given its name; not timed.

    Returns:
        Milliseconds of every timed round, by name; on a GPU each ends with all work done.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(warmup + repeats):
        for name, call in calls.items():
            prepare(name)
            _finish_work()
            start = time.perf_counter()
            call()
            _finish_work()
            if turn >= warmup:
                times[name].append(1e3 * (time.perf_counter() - start))
    return times


def peak_memory(call: Callable[[], Any], device: str) -> int:
    """Return the bytes held at the peak of a call above those held before it.

    Args:
        call: makes what is measured.
        device: ``"cpu"`` or ``"cuda"``.
    """
    if device == "cuda":
        _finish_work()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        _finish_work()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(profile_memory=True) as profile:
        call()
    used = peak = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda e: e.start_ns()):
        if event.name() == "[memory]":
            used += event.nbytes()
            peak = max(peak, used)
    return peak


def environment() -> dict[str, Any]:
    """Return hardware, versions, date and command, to stand beside every number."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": shlex.join(["python", *sys.argv]),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "versions": versions,
    }


def save(
    name: str, rows: Sequence[Mapping[str, Any]], made_by: Mapping[str, Any] | None = None
) -> Path:
    """Write rows and the environment, or that given, to ``results/NAME.json``; return the path."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    text = json.dumps({"environment": made_by or environment(), "rows": list(rows)}, indent=1)
    path.with_suffix(".tmp").write_text(text + "\n")
    path.with_suffix(".tmp").replace(path)
    return path


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a Markdown table, as the documentation shows it."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def _finish_work() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    names = (
        [line for line in info.read_text().splitlines() if line.startswith("model name")]
        if (info.exists())
        else []
    )
    return names[0].split(":")[1].strip() if names else platform.processor()
