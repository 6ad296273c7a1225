"""BSAM's state in a ``state_dict``: whether it fits, and in which dtype it is kept."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from bsam import options, parameters
from bsam.dtypes import state_dtype

_LATER = {"differentiable", "capturable"}  # options that older states do not have

NAMES = ("step", "exp_avg", "s")
"""What there is for each parameter."""


def require_fitting(
    state_dict: Mapping[str, Any], defaults: Mapping[str, Any], groups: list[dict[str, Any]]
) -> None:
    """Refuse a state dict that is not one of BSAM's, or is of another model.

    Args:
        state_dict: what is to be loaded.
        defaults: of the optimizer; its keys must be in each saved group.
        groups: of the optimizer.

    Raises:
        ValueError, TypeError: that says what does not fit.
    """
    saved = state_dict["param_groups"]
    for number, group in enumerate(saved):
        if missing := sorted(defaults.keys() - group.keys() - _LATER):
            raise ValueError(
                f"state_dict: must come from BSAM.state_dict(), but its parameter group "
                f"{number} lacks {', '.join(missing)}; load it into the optimizer that made it."
            )
        options.of_bsam(group)
        options.seed(group["seed"])
        calls = group["calls"]
        calls = calls.item() if isinstance(calls, Tensor) else calls
        options.integer("calls", calls, advice="it counts the updates")
    if [len(group["params"]) for group in saved] != [len(group["params"]) for group in groups]:
        return  # torch refuses that, with its usual words
    for number, p in _by_number(saved, groups):
        state = state_dict["state"].get(number, {})
        if state and (missing := sorted(set(NAMES) - state.keys())):
            raise ValueError(
                f"state_dict: the state of parameter {parameters.label(groups, p)} lacks "
                f"{', '.join(missing)}; load what BSAM.state_dict() gave."
            )
        for name in ("exp_avg", "s"):
            value = state.get(name, p)
            if value.shape != p.shape:
                raise ValueError(
                    f"state_dict: {name} of parameter {parameters.label(groups, p)} has shape "
                    f"{tuple(value.shape)}: must be {tuple(p.shape)}; it is of another model."
                )


def widen(
    state: Mapping[Tensor, dict[str, Any]],
    state_dict: Mapping[str, Any],
    groups: list[dict[str, Any]],
) -> None:
    """Take the values of a state dict anew, on the parameter's device, never narrower than float32.

    Args:
        state: of the optimizer, by parameter; changed in place.
        state_dict: what is being loaded.
        groups: of the optimizer.
    """
    for number, p in _by_number(state_dict["param_groups"], groups):
        for name, value in state_dict["state"].get(number, {}).items():
            if name != "step":
                value = value.to(device=p.device, dtype=state_dtype(p))
            state[p][name] = value.clone()


def _by_number(
    saved: list[dict[str, Any]], groups: list[dict[str, Any]]
) -> Iterator[tuple[int, Tensor]]:
    for saved_group, group in zip(saved, groups, strict=True):
        yield from zip(saved_group["params"], group["params"], strict=True)
