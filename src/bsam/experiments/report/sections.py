"""The sections of the page below its table."""

from collections.abc import Sequence
from typing import NamedTuple

from bsam.experiments.comparison import REFERENCE
from bsam.experiments.report import details, distributions, examples, lines
from bsam.experiments.report.details import Entry
from bsam.experiments.report.examples import Example
from bsam.experiments.report.figures import Figure
from bsam.experiments.report.variances import learned
from bsam.experiments.report.words import percent
from bsam.experiments.runs import Run

PICTURES = 6
"""So many images of each kind for each method."""


class Section(NamedTuple):
    """A heading, how to read what is below it, and figures."""

    name: str
    heading: str
    text: str
    figures: Sequence[Figure]


def sections(runs: Sequence[Run], entries: Sequence[Entry], data: str) -> list[Section]:
    """Return the sections with plots; those without anything to show are left out.

    Args:
        runs: of all methods.
        entries: of the results, in order.
        data: name of the data set.
    """
    compared = any(entry["differences"] for entry in details.own(entries))
    differences = (
        " on the left, 95 % intervals of the paired difference on the right, where one that "
        "crosses the line at 0 is a tie"
    )
    made = [
        Section(
            "turning",
            "The further images are turned",
            "What a network has not seen it should be less sure of. Each method in its own way to "
            f"predict; bars are standard errors{differences if compared else ''}.",
            [lines.turning(entries)],
        ),
        Section(
            "reliability",
            "Sure and right",
            "Predictions in 15 bins of confidence, all seeds together; the larger a point, the "
            "more predictions. On the diagonal a method is right as often as it says; below it, "
            "it is too sure.",
            [distributions.reliability(runs, entries, data)],
        ),
        Section(
            "risk",
            "Leaving out what is unsure",
            "Error rate among the most confident share of the images, all seeds together. A "
            "method whose doubt finds its errors falls quickly towards the left.",
            [lines.risk_coverage(runs, entries, data)],
        ),
        Section(
            "entropy",
            "Doubt about unknown inputs",
            "Patches of photographs are no digits: entropy should be larger for them. Where "
            "predictions are averaged over draws it has two parts: aleatoric, the mean entropy of "
            "the draws, and epistemic, what they disagree about. The others have the total alone. "
            "Heights are on a square-root scale, so that small shares can be seen.",
            list(distributions.entropies(runs, entries, data)),
        ),
        Section(
            "draws",
            "How many draws it takes",
            "Predictions averaged over the first draws from the posterior, or of noise. Mean and "
            "standard error over seeds for the NLL; for the ECE all seeds together, with the "
            "jackknife's error.",
            [lines.draws(runs, entries, data)],
        ),
    ]
    if found := learned(runs):
        made.append(
            Section(
                "variances",
                f"What {REFERENCE} learned of s",
                "s is the posterior's precision of a weight divided by N: small where the data say "
                "little. It cannot fall below its floor, damping + weight decay; what stands there "
                "was set by the damping. Unlearned is what is where zero gradients would have "
                f"brought it on its way there, {found.decayed:.3g}. Weights and biases of seeds "
                f"{', '.join(map(str, found.seeds))} together; heights on a square-root scale.",
                [distributions.variances(found)],
            )
        )
    shown = [
        section._replace(figures=[figure for figure in section.figures if figure.panels])
        for section in made
    ]
    return [section for section in shown if section.figures]


class Picture(NamedTuple):
    """An image with what is said of it."""

    address: str
    alt: str
    caption: str
    confidence: str


class Gallery(NamedTuple):
    """A method's images: wrong although sure, and unsure."""

    label: str
    seed: int
    wrong: Sequence[Picture]
    unsure: Sequence[Picture]


def galleries(runs: Sequence[Run], entries: Sequence[Entry]) -> list[Gallery]:
    """Return images of each method's first run, in its own way to predict.

    Args:
        runs: of all methods.
        entries: of the results, in order.
    """
    made = []
    for entry in details.own(entries):
        own = details.finished(runs, entry["method"])
        images = examples.images_of(own[0]) if own else None
        if images is None:
            continue
        probs, labels = details.pooled(own[:1], entry["way"], "clean")
        wrong = examples.sure_but_wrong(probs, labels, PICTURES)
        unsure = examples.least_sure(probs, labels, PICTURES)
        made.append(
            Gallery(
                entry["label"],
                own[0].recipe.seed,
                [_picture(each, examples.png(images[each.row])) for each in wrong],
                [_picture(each, examples.png(images[each.row])) for each in unsure],
            )
        )
    return made


def _picture(example: Example, address: str) -> Picture:
    sure = percent(example.confidence)
    taken = "taken for" if example.label != example.predicted else "taken, rightly, for"
    alt = f"A {example.label} {taken} {example.predicted}, {sure} sure."
    return Picture(address, alt, f"{example.label} → {example.predicted}", sure)
