"""Training methods under comparison: how each is made, and what of it is searched over."""

import importlib.util
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

import bsam

Settings = Mapping[str, float]
"""Hyperparameters by name."""


class Method(NamedTuple):
    """A way to train."""

    make: Callable[[nn.Module, Settings, int, int], torch.optim.Optimizer]
    """Makes an optimizer from a model, settings, the number of training examples and a seed."""

    search: Mapping[str, tuple[float, float]]
    """Where each setting is searched: drawn from (low, high), uniformly in its logarithm."""

    gradients_per_step: int
    epochs: int = 1
    """Times the usual number of passes over the data."""

    needs: str = ""
    """A package that must be there."""


def _sgd(model: nn.Module, settings: Settings, _examples: int, _seed: int) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), **_sgd_options(settings))


def _adam(model: nn.Module, settings: Settings, _examples: int, _seed: int) -> torch.optim.Adam:
    return torch.optim.Adam(model.parameters(), **_adam_options(settings))


def _sam(model: nn.Module, settings: Settings, _examples: int, _seed: int) -> bsam.SAM:
    options = _sgd_options(settings)
    return bsam.SAM(model.named_parameters(), torch.optim.SGD, rho=settings["rho"], **options)


def _sam_adam(model: nn.Module, settings: Settings, _examples: int, _seed: int) -> bsam.SAM:
    options = _adam_options(settings)
    return bsam.SAM(model.named_parameters(), torch.optim.Adam, rho=settings["rho"], **options)


def _bsam(model: nn.Module, settings: Settings, examples: int, seed: int) -> bsam.BSAM:
    return bsam.BSAM(
        model.named_parameters(),
        settings["lr"],
        num_data=settings["data_factor"] * examples,
        rho=settings["rho"],
        betas=(0.9, 1.0 - settings["1-beta2"]),
        weight_decay=settings["weight_decay"],
        damping=settings["damping"],
        seed=seed,
    )


def _ivon(model: nn.Module, settings: Settings, examples: int, seed: int) -> torch.optim.Optimizer:
    # A rival under a licence of its own: only where the user has installed it.
    ivon: Any = importlib.import_module("ivon")

    class ClosureIVON(ivon.IVON):
        """IVON whose step takes a closure, as the loop gives one to every method."""

        def step(self, closure: Any = None) -> Any:
            with self.sampled_params(train=True):
                loss = closure()
            super().step()
            return loss

        def posterior(self, model: nn.Module) -> bsam.GaussianPosterior:
            """Return the posterior that IVON has learned: precision ess (hess + weight_decay)."""
            (group,) = self.param_groups
            flat = group["ess"] * (group["hess"] + group["weight_decay"])
            sizes = [p.numel() for p in group["params"]]
            named = dict(model.named_parameters())
            pieces = zip(named.items(), flat.split(sizes), strict=True)
            return bsam.GaussianPosterior(
                named, {name: piece.view(p.shape) for (name, p), piece in pieces}
            )

    torch.manual_seed(seed)  # IVON's noise comes from torch's generator
    return ClosureIVON(
        model.parameters(),
        lr=settings["lr"],
        ess=settings["data_factor"] * examples,
        hess_init=settings["hess_init"],
        beta2=1.0 - settings["1-beta2"],
        weight_decay=settings["weight_decay"],
    )


def _sgd_options(settings: Settings) -> dict[str, Any]:
    return {"lr": settings["lr"], "momentum": 0.9, "weight_decay": settings["weight_decay"]}


def _adam_options(settings: Settings) -> dict[str, Any]:
    betas = (0.9, 1.0 - settings["1-beta2"])
    return {"lr": settings["lr"], "betas": betas, "weight_decay": settings["weight_decay"]}


_DECAY = {"weight_decay": (1e-5, 3e-2)}
_BETA2 = {"1-beta2": (1e-4, 1e-1)}
_SGD = {"lr": (0.01, 2.0), **_DECAY}
_ADAM = {"lr": (5e-4, 0.2), **_DECAY, **_BETA2}
_IVON = {
    "lr": (0.01, 2.0),
    **_DECAY,
    **_BETA2,
    "data_factor": (0.3, 100.0),
    "hess_init": (0.01, 1.0),
}

METHODS = {
    "SGD": Method(_sgd, _SGD, 1),
    "SGD-2x": Method(_sgd, _SGD, 1, epochs=2),
    "Adam": Method(_adam, _ADAM, 1),
    "Adam-2x": Method(_adam, _ADAM, 1, epochs=2),
    "SAM": Method(_sam, {**_SGD, "rho": (0.01, 2.0)}, 2),
    "SAM-Adam": Method(_sam_adam, {**_ADAM, "rho": (0.01, 2.0)}, 2),
    "IVON": Method(_ivon, _IVON, 1, needs="ivon"),
    "IVON-2x": Method(_ivon, _IVON, 1, epochs=2, needs="ivon"),
    "bSAM": Method(
        _bsam,
        {
            "lr": (0.1, 20.0),
            **_DECAY,
            **_BETA2,
            "rho": (1e-3, 1.0),
            "damping": (1e-2, 1.0),
            "data_factor": (0.3, 100.0),
        },
        2,
    ),
}
"""By name; those that end in -2x make twice the epochs, for methods with one gradient a step."""


def available() -> tuple[str, ...]:
    """Return the names of the methods whose packages are there."""
    return tuple(
        name
        for name, method in METHODS.items()
        if not method.needs or importlib.util.find_spec(method.needs)
    )
