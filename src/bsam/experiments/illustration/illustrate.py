"""From a loss and a Gaussian to numbers in words, and a folder with a figure and a page."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from bsam import options
from bsam.experiments.illustration.curves import curves
from bsam.experiments.illustration.lookup import lookup
from bsam.experiments.illustration.numbers import numbers
from bsam.experiments.illustration.ranges import ranges
from bsam.experiments.illustration.words import lines
from bsam.experiments.results import write_json
from bsam.files import written_whole
from bsam.relaxation.named import find

LARGEST_MEAN, SD_RANGE = 1e6, (1e-3, 1e3)
"""What the pictures are good for."""


def illustrate(text: str, mean: float, sd: float, folder: Path) -> list[str]:
    """Compute the numbers and write them, the figure and the page.

    Args:
        text: the loss: a name or an expression.
        mean: of the Gaussian.
        sd: its standard deviation.
        folder: is made if it is not there.

    Returns:
        The numbers and what is to be said of them, in lines for a terminal.

    Raises:
        ValueError: that names the option of the command line that is not allowed.
    """
    from bsam.experiments.illustration.drawing import write_figure  # matplotlib is slow to import
    from bsam.experiments.illustration.page import page

    low, high = SD_RANGE
    options.real("--mean", mean, at_least=-LARGEST_MEAN, at_most=LARGEST_MEAN, advice="try 0.5")
    advice = "it is the root of the variance; try 0.7, or rescale theta in the loss"
    options.real("--sd", sd, at_least=low, at_most=high, advice=advice)
    loss = find(text, "--loss")
    shown = ranges(mean, sd)
    known = lookup(loss, mean, sd, shown, f"--loss={loss.name}")
    with _named(folder):
        folder.mkdir(parents=True, exist_ok=True)
    found = numbers(loss, mean, sd) | {"curves": curves(loss, known, shown, sd)}
    with _named(folder):
        write_json(folder / "numbers.json", found)
        write_figure(found, loss, shown, folder / "figure.png")
        content = (folder / "numbers.json").read_bytes()
        text = page(found, content, known, shown, loss.description)
        with written_whole(folder / "page.html") as temporary:
            temporary.write_text(text, encoding="utf-8")
    return lines(found, loss.description)


@contextmanager
def _named(folder: Path) -> Generator[None, None, None]:
    """Have what cannot be written name the option that says where to."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(
            f"--output={folder}: cannot be written to ({reason}); name another folder."
        ) from None
