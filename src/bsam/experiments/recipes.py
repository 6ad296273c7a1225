"""Recipes: all settings of a run, as data."""

import json
from importlib import resources
from typing import Any, NamedTuple

from bsam.experiments.methods import METHODS


class Recipe(NamedTuple):
    """All that a run depends on, but for versions and device."""

    data: str
    method: str
    seed: int
    settings: dict[str, float]
    epochs: int = 60
    batch_size: int = 64
    hidden: int = 64
    num_samples: int = 32


def tuned(data: str) -> dict[str, Any]:
    """Return what the search on validation images found for a data set.

    Args:
        data: its name, such as ``"digits"``.

    Returns:
        ``protocol`` and, by name of the method, ``methods`` with their settings.
    """
    text = resources.files("bsam.experiments").joinpath("recipes", f"{data}.json").read_text()
    return json.loads(text)


def recipe(data: str, method: str, seed: int, **changes: Any) -> Recipe:
    """Return a method's recipe with the settings that the search found.

    Args:
        data: name of the data set.
        method: name of the method.
        seed: of split, initialisation, order of examples and noise.
        **changes: other fields of the recipe.
    """
    made = Recipe(data, method, seed, settings=tuned(data)["methods"][method]["settings"])
    made = made._replace(**changes)
    return made._replace(epochs=made.epochs * METHODS[method].epochs)
