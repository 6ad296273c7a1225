"""What a posterior is made of: what is allowed, and the message for what is not."""

from collections.abc import Iterable, Mapping

from torch import Tensor

from bsam import options
from bsam.dtypes import state_dtype


def require_agreement(mean: Mapping[str, Tensor], precision: Mapping[str, Tensor]) -> None:
    """Refuse means and precisions that do not make a Gaussian.

    Args:
        mean: by parameter name.
        precision: by name, for the random ones.

    Raises:
        ValueError, TypeError: that names the parameter.
    """
    if not precision:
        raise ValueError(
            "precision: is empty: must have at least one parameter; a posterior without any is a "
            "point, so use the model itself."
        )
    for kind, tensors in (("mean", mean), ("precision", precision)):
        for name, tensor in tensors.items():
            if not isinstance(tensor, Tensor):
                raise TypeError(f"{kind}: {name!r} is {type(tensor).__name__}: must be a tensor.")
    for name, tensor in mean.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(
                f"mean: {name!r} has elements that are not finite: must be finite; the training "
                "diverged, so lower lr or rho."
            )
    for name, tensor in precision.items():
        if name not in mean:
            raise ValueError(f"precision: {name!r} is not in mean: must be one of {listed(mean)}.")
        if tensor.shape != mean[name].shape:
            raise ValueError(
                f"precision: {name!r} has shape {tuple(tensor.shape)}: must be the mean's, "
                f"{tuple(mean[name].shape)}."
            )
        if tensor.dtype != state_dtype(tensor):
            raise TypeError(
                f"precision: {name!r} is {tensor.dtype}: must be torch.float32 or torch.float64, "
                "narrower ones round variances away; pass it .float()."
            )
        if not is_precision(tensor):
            raise ValueError(
                f"precision: {name!r} has elements that are not positive and finite: all must be; "
                "leave fixed parameters out."
            )


def is_precision(tensor: Tensor) -> bool:
    """Return whether all elements are positive and finite."""
    return bool(((tensor > 0) & tensor.isfinite()).all())


def per_parameter(
    what: str, value: float | Mapping[str, float] | None, precision: Mapping[str, Tensor]
) -> float | dict[str, float] | None:
    """Return one number where all random parameters share it, else one for each name.

    Args:
        what: num_data or weight_decay.
        value: a number, numbers by name, or None.
        precision: has the names of the random parameters.

    Raises:
        ValueError, TypeError: for a name that is missing, or a number that is not allowed.
    """
    if value is None:
        return None
    if isinstance(value, Mapping):
        if missing := [name for name in precision if name not in value]:
            raise ValueError(f"{what}: lacks {listed(missing)}: must have each random parameter.")
        numbers = {name: _number(what, value[name]) for name in precision}
        return next(iter(numbers.values())) if len(set(numbers.values())) == 1 else numbers
    return _number(what, value)


def _number(what: str, value: object) -> float:
    advice = "pass what the optimizer was given"
    if what == "num_data":
        return options.real(what, value, above=0.0, advice=advice)
    return options.real(what, value, at_least=0.0, advice=advice)


def listed(names: Iterable[str]) -> str:
    """Return the words for names: the first three and how many more."""
    every = [repr(name) for name in names]
    more = f" and {len(every) - 3} more" if len(every) > 3 else ""
    return ", ".join(every[:3]) + more
