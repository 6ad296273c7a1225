"""Decision boundaries under samples of the posterior, as a picture.

Run:  python examples/two_moons.py --output two_moons.png

Trains a small network with bSAM on two interleaved half circles, then draws the boundaries of
networks sampled from the posterior N(omega, 1/(N s)) and the average of their predictions. Between
the moons the boundaries are a bundle; away from the data they spread out. The average is less sure
than the network at the mean, near the data and far away.
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import make_moons
from torch import nn

import bsam


def train(points: torch.Tensor, labels: torch.Tensor, steps: int, seed: int):
    """Return a network and the bSAM optimizer that trained it."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1)
    )
    optimizer = bsam.BSAM(
        model.parameters(), lr=0.3, num_data=len(points), betas=(0.9, 0.99), damping=0.02, seed=seed
    )

    def closure():
        loss = nn.functional.binary_cross_entropy_with_logits(model(points)[:, 0], labels)
        loss.backward()
        return loss

    for step in range(steps):
        loss = optimizer.step(closure)
        if step % 250 == 0:
            print(f"step {step:4d}  loss {loss.item():.3f}")
    return model, optimizer


@torch.no_grad()
def predictions(
    model: nn.Module,
    posterior: bsam.GaussianPosterior,
    points: torch.Tensor,
    samples: int,
    seed: int,
):
    """Return P(y = 1), shape (samples, len(points)), for each of several networks."""
    each = []
    for number in range(samples):
        with posterior.sampled(model, seed=seed, number=number):
            each.append(model(points)[:, 0].sigmoid())
    return torch.stack(each)


def draw(points, labels, grid, mean, sampled, output: Path) -> None:
    """Draw the boundaries of single samples on the left, how sure their average is on the right."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6), sharey=True, layout="constrained")
    x, y = grid
    for each in sampled:
        left.contour(x, y, each, levels=[0.5], colors="tab:purple", linewidths=0.6, alpha=0.5)
    left.contour(x, y, mean, levels=[0.5], colors="black", linewidths=2)
    left.set_title(f"boundaries: the mean (black) and {len(sampled)} samples")
    shades = right.contourf(
        x, y, sampled.mean(0), levels=torch.linspace(0, 1, 21), cmap="RdBu_r", alpha=0.85
    )
    right.set_title("probability of the second class, averaged over the samples")
    figure.colorbar(shades, ax=right, ticks=[0, 0.25, 0.5, 0.75, 1])
    for axes in (left, right):
        axes.scatter(*points.T, c=labels, cmap="RdBu_r", s=12, edgecolors="black", linewidths=0.4)
        axes.set_aspect("equal")
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=110)
    plt.close(figure)


def main(arguments=None) -> None:
    """Train, predict on a grid, draw, and print how sure each is near the data and far away."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("two_moons.png"), help="the picture")
    parser.add_argument("--steps", type=int, default=2000, help="training steps")
    parser.add_argument("--samples", type=int, default=50, help="samples of the posterior")
    parser.add_argument("--seed", type=int, default=0, help="of data, network and noise")
    options = parser.parse_args(arguments)
    if options.steps < 1 or options.samples < 1:
        parser.error("--steps and --samples must be at least 1")
    if options.output.suffix not in (".png", ".pdf", ".svg"):
        parser.error(f"--output {options.output}: must end in .png, .pdf or .svg")

    points, labels = make_moons(200, noise=0.15, random_state=options.seed)
    points = torch.tensor(points, dtype=torch.float32)
    labels = torch.tensor(labels, dtype=torch.float32)
    model, optimizer = train(points, labels, options.steps, options.seed)

    x, y = torch.meshgrid(torch.linspace(-3, 4, 141), torch.linspace(-3, 3.5, 131), indexing="xy")
    grid = torch.stack([x.flatten(), y.flatten()], 1)
    posterior = optimizer.posterior(model)
    sampled = predictions(model, posterior, grid, options.samples, options.seed)
    mean = bsam.predict(model, posterior, grid, num_samples=0, likelihood="bernoulli").probs[:, 0]
    far = torch.cdist(grid, points).amin(1) > 1.0
    for name, probability in (("mean", mean), ("samples", sampled.mean(0))):
        confidence = torch.maximum(probability, 1 - probability)
        print(
            f"{name:8} confidence within 1 of the data {confidence[~far].mean():.3f}, "
            f"farther away {confidence[far].mean():.3f}"
        )
    draw(points, labels, (x, y), mean.view_as(x), sampled.view(-1, *x.shape), options.output)
    print(f"written: {options.output}")


if __name__ == "__main__":
    main()
