"""A run and its folder: everything later is made from what it holds.

``recipe.json`` (all settings), ``environment.json`` (versions, device), ``metrics.jsonl`` (a line
an epoch), ``checkpoint/state.pt`` (from which a run goes on bit for bit),
``posterior.safetensors``, ``predictions.npz``, and last ``evaluation.json``: with it the run is
finished.
"""

import json
import platform
import subprocess
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

import bsam
from bsam.experiments.data import Split, digits
from bsam.experiments.evaluation import evaluate, ways_of
from bsam.experiments.methods import METHODS
from bsam.experiments.models import mlp
from bsam.experiments.recipes import Recipe
from bsam.experiments.results import write_json
from bsam.experiments.shifts import test_sets, unknown
from bsam.experiments.training import Training
from bsam.files import written_whole

UNKNOWN = "unknown"
"""Name of the test set of images that are no digits."""


class Run(NamedTuple):
    """What a finished run's folder holds."""

    folder: Path
    recipe: Recipe
    arrays: dict[str, np.ndarray]
    evaluation: dict[str, Any]


def folder_of(root: Path, recipe: Recipe) -> Path:
    """Return where under ``root`` a recipe's run is kept."""
    return root / recipe.method / f"seed-{recipe.seed}"


def is_finished(folder: Path) -> bool:
    """Return whether a folder holds a finished run."""
    return (folder / "evaluation.json").exists()


def require_finished(folder: Path) -> None:
    """Refuse a folder without a finished run.

    Raises:
        ValueError: that says how to make one.
    """
    if not is_finished(folder):
        raise ValueError(f"{folder}: holds no finished run; make one with `bsam train`.")


def load(folder: Path) -> Run:
    """Read a finished run.

    Args:
        folder: of the run.

    Raises:
        ValueError: if there is none, or it did not finish.
    """
    require_finished(folder)
    evaluation = json.loads((folder / "evaluation.json").read_text())
    arrays: dict[str, np.ndarray] = {}
    if "failed" not in evaluation:
        with np.load(folder / "predictions.npz") as file:
            arrays = dict(file)
    return Run(folder, read_recipe(folder), arrays, evaluation)


def read_recipe(folder: Path) -> Recipe:
    """Read the recipe of a run, finished or not."""
    return Recipe(**json.loads((folder / "recipe.json").read_text()))


def read_environment(folder: Path) -> dict[str, Any]:
    """Read the versions and the machine that a run was made with; empty if they are not there."""
    path = folder / "environment.json"
    return json.loads(path.read_text()) if path.exists() else {}


def prepare(folder: Path, recipe: Recipe) -> None:
    """Make a run's folder, or check that the one there is of the same recipe.

    Raises:
        ValueError: if another recipe's run is there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "recipe.json").exists():
        there = read_recipe(folder)
        if there != recipe:
            changed = [n for n in recipe._fields if getattr(there, n) != getattr(recipe, n)]
            raise ValueError(
                f"{folder}: holds a run with other settings ({', '.join(changed)} differ); name "
                "another folder with --runs, or delete this one."
            )
        return
    write_json(folder / "recipe.json", recipe._asdict())


def run(
    recipe: Recipe, folder: Path, *, device: str = "cpu", checkpoint_every: int = 20
) -> Iterator[tuple[int, float]]:
    """Train, or go on with, a recipe's run and evaluate it; yield each epoch and its loss.

    A run that diverges is recorded as failed, with the reason, and counts as infinitely bad.

    Args:
        recipe: what to run.
        folder: where to; made by :func:`prepare`.
        device: where to compute.
        checkpoint_every: epochs from one checkpoint to the next.
    """
    with one_thread():
        write_json(folder / "environment.json", environment(device))
    split = Split(*(part.to(torch.device(device)) for part in digits(recipe.seed)))
    model, training = start(recipe, split, device)
    resumed = resume(training, recipe, folder)
    kept = _lines(folder)[: training.epoch] if resumed else []
    (folder / "metrics.jsonl").write_text("".join(kept))
    before = json.loads(kept[-1])["seconds"] if kept else 0.0
    began = time.perf_counter()
    try:
        while training.epoch < recipe.epochs:
            with one_thread():
                loss = training.run_epoch()
            seconds = before + time.perf_counter() - began
            line = {"epoch": training.epoch, "loss": loss, "seconds": round(seconds, 4)}
            with (folder / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")
            if training.epoch % checkpoint_every == 0 or training.epoch == recipe.epochs:
                save_checkpoint(training, folder)
            yield training.epoch, loss
        with one_thread():
            finish(recipe, folder, model, training, split)
    except (RuntimeError, ValueError) as error:
        if not _diverged(model, error):
            raise  # a full disk, no memory: nothing that the method is to blame for
        write_json(folder / "evaluation.json", {"failed": str(error)})


@contextmanager
def one_thread() -> Generator[None, None, None]:
    """Compute with one thread inside: the numbers are then the same however many runs there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _diverged(model: nn.Module, error: Exception) -> bool:
    return not _is_finite(model) or "finite" in str(error)


def _is_finite(model: nn.Module) -> bool:
    return all(bool(p.isfinite().all()) for p in model.parameters())


def start(recipe: Recipe, split: Split, device: str) -> tuple[nn.Module, Training]:
    """Make a recipe's network and training, before the first epoch."""
    torch.manual_seed(recipe.seed)
    model = mlp(split.train.images[0].numel(), recipe.hidden, 10).to(device)
    optimizer = METHODS[recipe.method].make(
        model, recipe.settings, len(split.train.labels), recipe.seed
    )
    training = Training(
        model,
        optimizer,
        split.train,
        epochs=recipe.epochs,
        batch_size=recipe.batch_size,
        seed=recipe.seed,
    )
    return model, training


def save_checkpoint(training: Training, folder: Path) -> None:
    """Write the state of a training into a run's folder, whole or not at all."""
    (folder / "checkpoint").mkdir(exist_ok=True)
    with written_whole(folder / "checkpoint" / "state.pt") as temporary:
        torch.save(training.state_dict(), temporary)


def resume(training: Training, recipe: Recipe, folder: Path) -> bool:
    """Go on from a checkpoint if there is one; return whether there was."""
    path = folder / "checkpoint" / "state.pt"
    # A rival's state_dict may leave out what its next step depends on.
    if METHODS[recipe.method].needs or not path.exists():
        return False
    training.load_state_dict(torch.load(path, weights_only=True))
    return True


def evaluate_again(folder: Path, device: str = "cpu") -> None:
    """Predict anew from the weights and the posterior that a finished run's folder holds.

    Args:
        folder: of the run.
        device: where to compute.

    Raises:
        ValueError: if there is none, or it did not finish.
    """
    require_finished(folder)
    recipe = read_recipe(folder)
    if failed := json.loads((folder / "evaluation.json").read_text()).get("failed"):
        raise ValueError(f"{folder}: the run failed ({failed}): there is nothing to predict with.")
    split = Split(*(part.to(torch.device(device)) for part in digits(recipe.seed)))
    model, training = start(recipe, split, device)
    state = torch.load(folder / "checkpoint" / "state.pt", weights_only=True)
    model.load_state_dict(state["model"])
    path = folder / "posterior.safetensors"
    posterior = bsam.GaussianPosterior.load(path) if path.exists() else None
    if isinstance(training.optimizer, bsam.BSAM):
        training.optimizer.load_state_dict(state["optimizer"])
    with one_thread():
        _write_evaluation(recipe, folder, model, training.optimizer, posterior, split)


def finish(
    recipe: Recipe, folder: Path, model: nn.Module, training: Training, split: Split
) -> None:
    """Write the posterior, the predictions and, last, the evaluation of a trained network."""
    if not _is_finite(model):
        raise ValueError("the weights are not finite: the training diverged")
    optimizer: Any = training.optimizer
    posterior = None
    if "samples" in ways_of(recipe.method):
        posterior = optimizer.posterior(model)
        posterior.save(folder / "posterior.safetensors")
    _write_evaluation(recipe, folder, model, optimizer, posterior, split)


def _write_evaluation(
    recipe: Recipe,
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    posterior: bsam.GaussianPosterior | None,
    split: Split,
) -> None:
    began = time.perf_counter()
    tests = {name: part.images for name, part in test_sets(split.test, recipe.seed).items()}
    tests[UNKNOWN] = unknown(len(split.test.labels), recipe.seed).to(split.test.images)
    result = evaluate(
        model,
        posterior,
        ways_of(recipe.method),
        split.validation,
        tests,
        num_samples=recipe.num_samples,
        seed=recipe.seed,
    )
    labels = {"labels": split.test.labels.cpu().numpy()}
    with written_whole(folder / "predictions.npz") as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **labels, **result.arrays)
    lines = [json.loads(line) for line in _lines(folder)]
    steps = recipe.epochs * (len(split.train.labels) // recipe.batch_size)
    evaluation = {
        "chosen_on_validation": result.chosen,
        "training_seconds": lines[-1]["seconds"] if lines else None,
        "prediction_seconds": round(time.perf_counter() - began, 4),
        "gradient_passes": steps * METHODS[recipe.method].gradients_per_step,
    }
    if isinstance(optimizer, bsam.BSAM):
        evaluation["diagnostics"] = optimizer.diagnostics().total._asdict()
    write_json(folder / "evaluation.json", evaluation)


def environment(device: str) -> dict[str, Any]:
    """Return the versions and the machine that a run is made with."""
    return {
        "bsam": bsam.__version__,
        "commit": _commit(),
        "date": time.strftime("%Y-%m-%d"),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": device,
        "threads": torch.get_num_threads(),
    }


def _lines(folder: Path) -> list[str]:
    path = folder / "metrics.jsonl"
    return path.read_text().splitlines(keepends=True) if path.exists() else []


def _commit() -> str | None:
    """The commit of the checkout that the package lies in, if it does and git is there."""
    try:
        folder = str(Path(bsam.__file__).parent)
        git = ["git", "-C", folder, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        return (
            subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip() or None
        )
    except OSError:
        return None
