"""Short runs for the tests of everything that is made from runs."""

from bsam.experiments import runs
from bsam.experiments.recipes import Recipe

SETTINGS = {
    "SGD": {"lr": 0.3, "weight_decay": 1e-3},
    "Adam": {"lr": 0.03, "weight_decay": 1e-3, "1-beta2": 1e-3},
    "SAM": {"lr": 0.3, "weight_decay": 1e-3, "rho": 0.1},
    "SAM-Adam": {"lr": 0.01, "weight_decay": 1e-4, "1-beta2": 1e-2, "rho": 0.1},
    "IVON": {
        "lr": 0.2, "weight_decay": 1e-3, "1-beta2": 1e-3, "data_factor": 3.0, "hess_init": 0.1
    },
    "bSAM": {
        "lr": 3.0, "weight_decay": 1e-3, "1-beta2": 1e-3, "rho": 0.01, "damping": 0.1,
        "data_factor": 1.0,
    },
}  # fmt: skip
SETTINGS |= {f"{name}-2x": SETTINGS[name] for name in ("SGD", "Adam", "IVON")}


def short(method, seed=0, **changes):
    changes = {"epochs": 2, "num_samples": 3} | changes
    return Recipe("digits", method, seed, SETTINGS[method], **changes)


def carried_out(root, recipes):
    """Make the runs of recipes, each in its folder under root, and return them."""
    made = []
    for recipe in recipes:
        folder = runs.folder_of(root, recipe)
        runs.prepare(folder, recipe)
        list(runs.run(recipe, folder))
        made.append(runs.load(folder))
    return made
