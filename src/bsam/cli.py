"""The command line: ``bsam compare``, ``train``, ``evaluate``, ``report``, ``relax``."""

import importlib.util
import io
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

import bsam
from bsam import options

if TYPE_CHECKING:
    from bsam.experiments.compare import Plan

INTERRUPTED = 130
"""Exit status after Ctrl-C: 128 plus the number of the signal."""

_DESCRIPTION = """\
Sharpness-aware training that gives a Gaussian posterior over the weights.

Try first:

  bsam compare digits   SGD, Adam, SAM, SAM-Adam, bSAM (and IVON) on handwritten digits: tables
                        and a web page; about two minutes
  bsam compare --help   what can be set

The parts of it:

  bsam train digits     one run of one method, into a folder
  bsam evaluate RUN     predict anew from what the folder holds
  bsam report RUNS...   tables and page from finished runs

Why it works:

  bsam relax            why SAM is Bayes, for a loss of one parameter: numbers and a web page

In your own script: bsam.BSAM and bsam.SAM are optimizers in the habit of torch.optim.
"""

_NEEDS = ("tyro", "rich", "sklearn", "scipy", "jinja2", "matplotlib")

# tyro reads annotations from here; its own markers must not be imported before they are needed.
DataName = Literal["digits"]
MethodName = Literal[
    "SGD", "SGD-2x", "Adam", "Adam-2x", "SAM", "SAM-Adam", "IVON", "IVON-2x", "bSAM"
]


@dataclass
class Compare:
    """Train every method with every seed, and show how they compare.

    Follows the protocol of docs/comparison.md. Prints tables; writes results.json, a web page
    (report.html) and a folder for each run. Ctrl-C keeps the runs that are finished, and the same
    command goes on from there.
    """

    data: DataName
    """data set: digits are scikit-learn's"""

    seeds: int = 10
    """how many seeds; at least 3 for evidence"""

    seed: int = 0
    """first seed"""

    methods: tuple[MethodName, ...] = ()
    """which methods; if left out, all whose packages are there"""

    epochs: int = 60
    """passes over the training images; methods that end in -2x make twice as many"""

    num_samples: int = 32
    """draws of the posterior to average predictions over"""

    jobs: int = 0
    """how many runs at a time; 0 takes one for each core"""

    device: str = "auto"
    """cpu, cuda, mps, ...; auto takes an accelerator if there is one"""

    runs: Path | None = None
    """folder for runs, results and page; runs/DATA if left out"""

    def run(self) -> int:
        """Carry out, print, write, and return the exit status."""
        from bsam.experiments import compare
        from bsam.experiments.progress import progress

        plan, status = self._plan(), 0
        try:
            with progress(len(plan.seeds) * len(plan.methods)) as advance:
                compare.carry_out(plan, advance)
        except KeyboardInterrupt:
            status = INTERRUPTED
            print(
                "interrupted: the same command goes on from here; finished so far:", file=sys.stderr
            )
        if finished := plan.finished():
            _present(finished, plan.root)
        return status

    def _plan(self) -> "Plan":
        """Return the plan.

        Raises:
            ValueError: that names the option that is not allowed.
        """
        from bsam.experiments import methods
        from bsam.experiments.compare import Plan

        for name in ("seeds", "epochs", "num_samples"):
            _at_least_one(self, name)
        options.integer("--seed", self.seed, below=2**31, advice="the default is 0")
        options.integer("--jobs", self.jobs, advice="0 takes one for each core")
        chosen = self.methods or methods.available()
        if missing := set(chosen) - set(methods.available()):
            raise ValueError(
                f"--methods={', '.join(sorted(missing))}: needs a package that is not there; "
                "pip install 'bsam[rivals]'."
            )
        return Plan(
            data=self.data,
            methods=tuple(dict.fromkeys(chosen)),
            seeds=range(self.seed, self.seed + self.seeds),
            root=self.runs or Path("runs", self.data),
            jobs=self.jobs or os.cpu_count() or 1,
            device=_device(self.device),
            changes={"epochs": self.epochs, "num_samples": self.num_samples},
        )


@dataclass
class Train:
    """Make one run: train a method with one seed, evaluate it, keep all in a folder.

    A run that was stopped goes on from its last checkpoint.
    """

    data: DataName
    """data set"""

    method: MethodName = "bSAM"
    """which method"""

    seed: int = 0
    """of split, initialisation, order of examples and noise"""

    epochs: int = 60
    """passes over the training images; methods that end in -2x make twice as many"""

    num_samples: int = 32
    """draws of the posterior to average predictions over"""

    device: str = "auto"
    """cpu, cuda, mps, ...; auto takes an accelerator if there is one"""

    checkpoint_every: int = 20
    """epochs from one checkpoint to the next"""

    runs: Path | None = None
    """the run's folder is RUNS/METHOD/seed-SEED; runs/DATA if left out"""

    def run(self) -> int:
        """Train, print the folder, and return the exit status."""
        from bsam.experiments import methods, recipes, runs
        from bsam.experiments.progress import progress

        for name in ("epochs", "num_samples", "checkpoint_every"):
            _at_least_one(self, name)
        options.integer("--seed", self.seed, below=2**31, advice="the default is 0")
        if self.method not in methods.available():
            raise ValueError(f"--method={self.method}: pip install 'bsam[rivals]' first.")
        changes = {"epochs": self.epochs, "num_samples": self.num_samples}
        recipe = recipes.recipe(self.data, self.method, self.seed, **changes)
        folder = runs.folder_of(self.runs or Path("runs", self.data), recipe)
        runs.prepare(folder, recipe)
        if runs.is_finished(folder):
            print(f"{folder}: is finished already; `bsam evaluate {folder}` predicts anew")
            return 0
        steps = runs.run(
            recipe, folder, device=_device(self.device), checkpoint_every=self.checkpoint_every
        )
        with progress(recipe.epochs) as advance:
            for epoch, loss in steps:
                advance(f"epoch {epoch}, loss {loss:.4f}")
        evaluation = runs.load(folder).evaluation
        if "failed" in evaluation:
            print(f"bsam train: {evaluation['failed']}", file=sys.stderr)
            return 1
        print(folder)
        return 0


@dataclass
class Evaluate:
    """Predict anew from the weights and the posterior that a finished run's folder holds."""

    run_folder: Path
    """such as runs/digits/bSAM/seed-0"""

    device: str = "auto"
    """cpu, cuda, mps, ...; auto takes an accelerator if there is one"""

    def run(self) -> int:
        """Predict, print the measures, and return the exit status."""
        import json

        from bsam.experiments import comparison, runs

        runs.evaluate_again(self.run_folder, _device(self.device))
        print(json.dumps(comparison.rows_of(runs.load(self.run_folder)), indent=1))
        return 0


@dataclass
class Report:
    """Make tables, results.json and the web page from finished runs, without training."""

    folders: tuple[Path, ...]
    """folders of runs, or folders that hold some at any depth"""

    output: Path = Path("report")
    """folder for results.json and report.html"""

    def run(self) -> int:
        """Read, print, write, and return the exit status."""
        from bsam.experiments import runs

        marks = sorted({m for f in self.folders for m in f.glob("**/evaluation.json")})
        if not marks:
            raise ValueError(
                f"{', '.join(map(str, self.folders)) or 'nothing'}: holds no finished run; name "
                "folders such as runs/digits."
            )
        self.output.mkdir(parents=True, exist_ok=True)
        _present([runs.load(mark.parent) for mark in marks], self.output)
        return 0


@dataclass
class Relax:
    """Show why SAM is Bayes: what the relaxation makes of a loss of one parameter.

    Prints expected, relaxed and largest loss around a Gaussian; writes numbers.json, figure.png and
    page.html, a web page with sliders. For example:

    bsam relax --loss "log(1+exp(-theta)) + 0.1*theta**2" --mean .5 --sd .7
    """

    loss: str = "logistic"
    """logistic, absolute, quadratic, double-well, waves, bump, hinge, huber, ramp, student, dome,
    quartic; or an expression in theta with numbers, pi, e, + - * / ** and abs, atan, clip, cos,
    cosh, erf, exp, log, log1p, logaddexp, max, min, relu, sigmoid, sin, softplus, sqrt, tanh,
    where; one that begins with a minus is written with =, as in --loss="-theta**2\""""

    mean: float = 0.5
    """of the Gaussian; from -1e6 to 1e6"""

    sd: float = 0.7
    """standard deviation of the Gaussian; from 0.001 to 1000"""

    output: str = "relaxation"
    """folder for numbers.json, figure.png and page.html"""

    def run(self) -> int:
        """Compute, print, write, and return the exit status."""
        from bsam.experiments import illustration

        if not self.output.strip():
            raise ValueError("--output='': is empty; name a folder, such as relaxation.")
        folder = Path(self.output)
        printed = illustration.illustrate(self.loss, self.mean, self.sd, folder)
        print(*printed, "", sep="\n")
        names = ("numbers.json", "figure.png", "page.html")
        print(f"written: {', '.join(str(folder / name) for name in names)}")
        return 0


def _present(finished: Sequence[Any], root: Path) -> None:
    """Print the tables of finished runs and write results and page."""
    from rich.console import Console

    from bsam.experiments import comparison, report, runs, tables
    from bsam.experiments.results import write_json

    command = shlex.join(["bsam", *sys.argv[1:]])
    environment = runs.read_environment(finished[0].folder)
    results = comparison.results(finished, command, environment)
    write_json(root / "results.json", results)
    report.write_page(finished, results, root / "report.html")
    tables.show(results, Console())
    print(f"written: {root / 'results.json'}, {root / 'report.html'}")


def _at_least_one(command: Any, name: str) -> None:
    flag, default = f"--{name.replace('_', '-')}", getattr(type(command), name)
    value = getattr(command, name)
    options.integer(flag, value, at_least=1, advice=f"the default is {default}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0, 2 for wrong usage, 130 for Ctrl-C."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # where ± has no code, show ? and go on
    if arguments == ["--version"]:
        print(f"bsam {bsam.__version__}")
        return 0
    if missing := [name for name in _NEEDS if importlib.util.find_spec(name) is None]:
        print(
            f"bsam: the command line needs {', '.join(missing)}; install them with "
            "pip install 'bsam[experiments]', in a checkout pip install '.[experiments]'",
            file=sys.stderr,
        )
        return 2
    import tyro

    commands: dict[str, Callable[..., Any]] = {
        "compare": _positional(Compare, "data"),
        "train": _positional(Train, "data"),
        "evaluate": _positional(Evaluate, "run_folder"),
        "report": _positional(Report, "folders"),
        "relax": Relax,
    }
    command = tyro.extras.subcommand_cli_from_dict(
        commands, prog="bsam", description=_DESCRIPTION, args=arguments or ["--help"]
    )
    try:
        return command.run()
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (ValueError, OSError) as error:
        print(f"bsam {arguments[0]}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from the last checkpoint", file=sys.stderr)
        return INTERRUPTED


def _positional(command: type, field: str) -> type:
    """Have a field of a command be an argument without a flag."""
    import tyro

    positional: Any = tyro.conf.Positional
    command.__annotations__[field] = positional[command.__annotations__[field]]
    return command


def _device(name: str) -> str:
    if name == "auto":
        available = torch.accelerator.is_available()
        accelerator = torch.accelerator.current_accelerator() if available else None
        return accelerator.type if accelerator else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"--device={name}: must be auto, cpu or an accelerator that torch finds ({reason}); "
            "leave it out to use what there is."
        ) from None
    return name
