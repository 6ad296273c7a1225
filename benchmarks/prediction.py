"""What `bsam.predict` costs against a plain loop, by number of samples.

Run:  .venv/bin/python benchmarks/prediction.py            (about three minutes of two cores)
      .venv/bin/python benchmarks/prediction.py --quick    (fewer samples and rounds; not saved)

The plain loop is what one writes by hand: standard deviations once; for each sample torch.randn
into the weights, a forward pass for each batch, the average of the softmax. "its draws" is the same
loop with `posterior.draw`, whose noise depends on nothing but (seed, draw, element) and so repeats
on every run; `predict` does that and adds up in float64 what entropies are made of too.

All in one process, interleaved. For each: milliseconds per sample of the best round; the median
over the rounds of the ratio to the plain loop of the same round, with the least and the largest;
the memory at the peak, above what was held before. Results: benchmarks/results/prediction.json.
"""

import argparse
import itertools
import statistics
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import timing
import torch
from torch import Tensor, nn

import bsam
from bsam.experiments.models import resnet

SAMPLES = (1, 2, 4, 8, 16, 32, 64)
PLAIN = "plain loop"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def perceptron(*widths: int) -> nn.Sequential:
    """Return linear layers of these widths with ReLU between, over flattened images."""
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def posterior_of(model: nn.Module) -> bsam.GaussianPosterior:
    """Return a posterior of standard deviation 0.01 around the model's weights."""
    mean = dict(model.named_parameters())
    precision = {name: torch.full_like(weights, 1e4) for name, weights in mean.items()}
    return bsam.GaussianPosterior(mean, precision, buffers=dict(model.named_buffers()))


# ------------------------------------------------------------------ the ways to predict


def plain_loop(
    model: nn.Module, posterior: bsam.GaussianPosterior, batches: list[Tensor], samples: int
) -> Tensor:
    """Average the softmax over weights drawn with torch's generator."""
    deviations = {name: variance.sqrt() for name, variance in posterior.variance.items()}

    def draws() -> Iterator[dict[str, Tensor]]:
        for _ in range(samples):
            yield {
                name: mean + torch.randn_like(mean) * deviations[name]
                for name, mean in posterior.mean.items()
            }

    return average(model, draws(), batches)


def loop_of_its_draws(
    model: nn.Module, posterior: bsam.GaussianPosterior, batches: list[Tensor], samples: int
) -> Tensor:
    """Average the softmax over the weights that `predict` would draw."""
    draws = (posterior.draw(number, seed=0) for number in range(samples))
    return average(model, draws, batches)


@torch.no_grad()
def average(model: nn.Module, draws: Iterator[dict[str, Tensor]], batches: list[Tensor]) -> Tensor:
    """Return the average of the softmax over draws; the model has its own weights afterwards."""
    params = dict(model.named_parameters())
    before = {name: p.detach().clone() for name, p in params.items()}
    sums: list[Any] = [0.0] * len(batches)
    count = 0
    for weights in draws:
        for name, p in params.items():
            p.copy_(weights[name])
        for number, batch in enumerate(batches):
            sums[number] = sums[number] + model(batch).softmax(-1)
        count += 1
    for name, p in params.items():
        p.copy_(before[name])
    return torch.cat(sums) / count


def ways(
    model: nn.Module, inputs: Tensor, batch_size: int, samples: int
) -> dict[str, Callable[[], Any]]:
    """Return what is compared, by name, the plain loop first."""
    posterior, batches = posterior_of(model), list(inputs.split(batch_size))

    def predict(method: str) -> Tensor:
        return bsam.predict(
            model, posterior, inputs, samples, method=method, batch_size=batch_size
        ).probs

    return {
        PLAIN: lambda: plain_loop(model, posterior, batches, samples),
        "its draws": lambda: loop_of_its_draws(model, posterior, batches, samples),
        "predict loop": lambda: predict("loop"),
        "predict vmap": lambda: predict("vmap"),
    }


# ------------------------------------------------------------------ measuring


def measure(title: str, samples: int, rounds: int) -> list[dict[str, Any]]:
    """Return a row for each way to predict with so many samples."""
    model, inputs, batch_size, _ = SETS[title]
    calls = ways(model, inputs, batch_size, samples)
    expected = calls["its draws"]()
    for name in ("predict loop", "predict vmap"):
        torch.testing.assert_close(calls[name](), expected.double(), rtol=1e-3, atol=1e-5)
    times = timing.interleaved(calls, rounds)
    rows = []
    for name, each in times.items():
        ratios = [one / plain for one, plain in zip(each, times[PLAIN], strict=True)]
        rows.append(
            {
                "set": title,
                "samples": samples,
                "way": name,
                "rounds": rounds,
                "ms_per_sample": min(each) / samples,
                "ratio": statistics.median(ratios),
                "ratio_range": [min(ratios), max(ratios)],
                "peak_mib": timing.peak_memory(calls[name], DEVICE) / 2**20,
            }
        )
    return rows


def as_table(rows: list[dict[str, Any]]) -> str:
    """Return one set's rows, a line for each number of samples."""
    by_samples: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        by_samples.setdefault(row["samples"], []).append(row)
    names = [row["way"] for row in rows[: len(rows) // len(by_samples)]]
    lines = []
    for samples, line in by_samples.items():
        plain, *others = line
        ratios = [
            f"{row['ratio']:.2f} ({row['ratio_range'][0]:.2f} to {row['ratio_range'][1]:.2f})"
            for row in others
        ]
        memory = " / ".join(f"{row['peak_mib']:.1f}" for row in line)
        lines.append([samples, f"{plain['ms_per_sample']:.2f}", *ratios, memory])
    columns = ["samples", f"{PLAIN}, ms a sample", *(f"{name}, x" for name in names[1:])]
    return timing.table([*columns, f"peak MiB: {' / '.join(names)}"], lines)


def main() -> None:
    """Print a table for each network and save all of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer samples and rounds; not saved")
    quick = parser.parse_args().quick
    # The network with BatchNorm keeps its statistics here, in every way alike.
    warnings.filterwarnings("ignore", message="the model has running statistics")
    rows: list[dict[str, Any]] = []
    for title, (model, _, _, most) in SETS.items():
        own: list[dict[str, Any]] = []
        for samples in SAMPLES[:5:2] if quick else SAMPLES:
            if samples > most:
                break
            own += measure(title, samples, 3 if quick else max(5, min(25, 64 // samples)))
        rows += own
        print(f"\n{title}; {sum(p.numel() for p in model.parameters()):,} weights, {DEVICE}\n")
        print(as_table(own), flush=True)
    if not quick:
        print(f"\n{timing.environment()}\nsaved to {timing.save('prediction', rows)}")


def sets() -> dict[str, tuple[nn.Module, Tensor, int, int]]:
    """Return (model, inputs, batch size, most samples) by title."""
    torch.manual_seed(0)
    large, small, network = perceptron(784, 500, 300, 10), perceptron(64, 50, 10), resnet(1, 10)
    images, digits = torch.randn(1000, 28, 28), torch.randn(256, 8, 8)
    every = {
        "MLP 784-500-300-10, 4 batches of 250": (large, images, 250, 64),
        "MLP 784-500-300-10, a batch of 32": (large, images[:32], 32, 64),
        "MLP 64-50-10, 4 batches of 64": (small, digits, 64, 64),
        "small residual network, a batch of 250": (network, images[:250], 250, 8),
        "small residual network, 4 batches of 25": (network, images[:100], 25, 64),
        "small residual network, a batch of 8": (network, images[:8], 8, 64),
    }
    return {
        title: (model.to(DEVICE).eval(), inputs.to(DEVICE), batch_size, most)
        for title, (model, inputs, batch_size, most) in every.items()
    }


SETS = sets()

if __name__ == "__main__":
    main()
