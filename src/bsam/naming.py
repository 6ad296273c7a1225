"""Names of a model's tensors, the same whatever the model is wrapped in."""

from collections.abc import Mapping

from torch import Tensor, nn

# Names that only wrappers use: torch.compile, fully sharded data parallel, checkpointing.
_MARKS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def own_parameters(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters by name, without the prefixes that wrappers add.

    A tied weight stands under its first name alone.

    Args:
        model: a module, compiled or wrapped for parallel training or not.

    Example:
        >>> import torch
        >>> from bsam.naming import own_parameters
        >>> list(own_parameters(torch.nn.DataParallel(torch.nn.Linear(2, 1))))
        ['weight', 'bias']
    """
    return _renamed(model, dict(model.named_parameters()))


def own_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Return the buffers that a ``state_dict`` holds, such as running statistics, likewise.

    Args:
        model: as for :func:`own_parameters`.
    """
    # Not by the keys of state_dict(): hooks of wrappers rename those.
    kept = {
        f"{path}.{name}" if path else name
        for path, module in model.named_modules()
        for name in module._buffers.keys() - module._non_persistent_buffers_set
    }
    return _renamed(model, {name: b for name, b in model.named_buffers() if name in kept})


def require_module(model: object) -> None:
    """Refuse what is not a model, such as its parameters.

    Raises:
        TypeError: that says what to pass.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model={type(model).__name__}: must be a module; pass the model itself.")


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the module inside ``torch.compile`` and data parallel wrappers around it.

    Args:
        model: any module.
    """
    while True:
        inner = model.module if isinstance(model, _PARALLEL) else getattr(model, "_orig_mod", None)
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def matching(
    model: nn.Module, parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the model's own tensors that others, held by name, are to be copied into.

    Args:
        model: as for :func:`own_parameters`.
        parameters: must have the names and shapes of all its parameters.
        buffers: names and shapes of some of its buffers.

    Raises:
        ValueError: if the model is another one, with what differs.
    """
    held = {**parameters, **buffers}
    own = own_parameters(model)
    there = own | {name: b for name, b in own_buffers(model).items() if name in buffers}
    faults = [f"lacks {name!r}" for name in held if name not in there]
    faults += [f"has {name!r} besides" for name in own if name not in parameters]
    faults += [
        f"has {name!r} of shape {tuple(tensor.shape)}, not {tuple(held[name].shape)}"
        for name, tensor in there.items()
        if name in held and tensor.shape != held[name].shape
    ]
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise ValueError(
            f"model: is not the one of this posterior: it {'; '.join(faults[:3])}{more}. It must "
            "have the posterior's parameters: build it as it was when it was trained."
        )
    return there


def _renamed(model: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    # The longest first, so that a wrapper inside a wrapper is found under its full name.
    wrapped = [path for path, module in model.named_modules() if isinstance(module, _PARALLEL)]
    wrappers = sorted((f"{path}." if path else "" for path in wrapped), key=len, reverse=True)
    names = {}
    for name, tensor in tensors.items():
        for path in wrappers:
            if name.startswith(f"{path}module."):
                name = path + name.removeprefix(f"{path}module.")
        for mark in _MARKS:
            name = name.replace(mark, "")
        names[name] = tensor
    return names
