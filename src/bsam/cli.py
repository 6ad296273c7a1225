"""The command line: ``bsam demo``."""

import importlib.util
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

import bsam
from bsam import options

if TYPE_CHECKING:
    from bsam.experiments.demo import Plan

INTERRUPTED = 130
"""Exit status after Ctrl-C: 128 plus the number of the signal."""

_DESCRIPTION = """\
Sharpness-aware training that gives a Gaussian posterior over the weights.

Try first:

  bsam demo             train SGD, Adam, SAM and bSAM on handwritten digits
  bsam demo --help      what can be set

In your own script: bsam.BSAM and bsam.SAM are optimizers in the habit of torch.optim.
"""

_NEEDS = ("tyro", "rich", "sklearn", "scipy")

MethodName = Literal["SGD", "Adam", "SAM", "bSAM"]


@dataclass
class Demo:
    """Train SGD, Adam, SAM and bSAM on scikit-learn's handwritten digits and compare them.

    Prints accuracy, negative log-likelihood (NLL, nats) and expected calibration error (ECE) on
    test images, and how sure each method is about images turned by 45 degrees. Less than a
    minute. Ctrl-C keeps what is finished.
    """

    seeds: int = 5
    """how many seeds; a standard error needs at least 2, evidence at least 3"""

    seed: int = 0
    """first seed"""

    methods: tuple[MethodName, ...] = ("SGD", "Adam", "SAM", "bSAM")
    """which methods to train"""

    epochs: int = 60
    """passes over the 718 training images"""

    num_samples: int = 32
    """samples of bSAM's posterior to average predictions over"""

    device: str = "auto"
    """cpu, cuda, mps, ...; auto takes an accelerator if there is one"""

    output: Path | None = None
    """also write every run and the table's numbers to this file, as JSON"""

    def run(self) -> int:
        """Train, print, and return the exit status."""
        # Heavy imports wait until something is to be trained, so that --help answers at once.
        from rich.console import Console

        from bsam.experiments import demo
        from bsam.experiments.progress import progress
        from bsam.experiments.results import require_writable, write_json

        try:
            plan = self._plan()
            if self.output:
                require_writable(self.output)
        except (ValueError, OSError) as error:
            print(f"bsam demo: {error}", file=sys.stderr)
            return 2
        rows, status = [], 0
        try:
            with progress(len(plan.seeds) * len(plan.methods)) as advance:
                for finished in demo.runs(plan):
                    rows += finished
                    advance(f"{finished[0]['method']}, seed {finished[0]['seed']}")
        except KeyboardInterrupt:
            status = INTERRUPTED
            print("interrupted: these are the runs that were finished", file=sys.stderr)
        if rows and self.output:
            write_json(self.output, demo.record(rows, plan))
        if rows:
            demo.show(rows, plan, Console())
        if rows and self.output:
            print(f"written: {self.output}")
        return status

    def _plan(self) -> "Plan":
        """Return the plan.

        Raises:
            ValueError: that names the option that is not allowed.
        """
        from bsam.experiments.demo import Plan

        for name in ("seeds", "epochs", "num_samples"):
            flag, advice = f"--{name.replace('_', '-')}", f"the default is {getattr(Demo, name)}"
            options.integer(flag, getattr(self, name), at_least=1, advice=advice)
        options.integer("--seed", self.seed, below=2**31, advice="the default is 0")
        if not self.methods:
            raise ValueError("--methods: must name at least one of SGD, Adam, SAM, bSAM.")
        return Plan(
            methods=tuple(dict.fromkeys(self.methods)),
            seeds=range(self.seed, self.seed + self.seeds),
            epochs=self.epochs,
            num_samples=self.num_samples,
            device=_device(self.device),
        )


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

    command = tyro.extras.subcommand_cli_from_dict(
        {"demo": Demo}, prog="bsam", description=_DESCRIPTION, args=arguments or ["--help"]
    )
    try:
        return command.run()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


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
