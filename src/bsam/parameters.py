"""What users pass as ``params``: tensors, named tensors or groups of them."""

from typing import Any

import torch
from torch import Tensor


def require_tensors(params: Any) -> Any:
    """Return ``params``, or say what to pass instead of a module or a method.

    Raises:
        TypeError: if it is not something to iterate over.
    """
    if callable(params) and not isinstance(params, torch.nn.ParameterList):
        name = getattr(params, "__qualname__", type(params).__name__)
        raise TypeError(
            f"params=<{name}>: must be parameters, named parameters or groups of them; pass "
            "model.parameters() or model.named_parameters()."
        )
    return params


def groups_of(params: Any) -> list[dict[str, Any]]:
    """Return what torch takes as ``params`` as a list of groups without repeated tensors."""
    if isinstance(params, Tensor):
        return params  # torch says what is wrong with that
    entries = list(require_tensors(params))
    if not entries:
        return entries  # that too
    groups = entries if isinstance(entries[0], dict) else [{"params": entries}]
    return [{**g, "params": distinct(g["params"], i)} for i, g in enumerate(groups)]


def distinct(params: Any, group: int) -> Any:
    """Check the tensors of a group and drop repeated ones; leave to torch what it refuses."""
    if isinstance(params, Tensor):
        params = [params]
    if isinstance(params, set):
        return params
    distinct: dict[int, Any] = {}
    for index, entry in enumerate(params):
        p = entry[1] if isinstance(entry, tuple) else entry
        if isinstance(p, Tensor) and (p.is_complex() or p.layout != torch.strided):
            name = repr(entry[0]) if isinstance(entry, tuple) else numbered(group, index, p)
            kind = "complex" if p.is_complex() else "sparse"
            cure = "torch.view_as_real" if p.is_complex() else "to_dense"
            raise TypeError(
                f"params: parameter {name} is {kind}: must be real and dense; optimize its "
                f"{cure}() instead."
            )
        distinct.setdefault(id(p), entry)
    return list(distinct.values())


def label(groups: list[dict[str, Any]], param: Tensor) -> str:
    """Return the words for a parameter: its name if the groups have names, else its number."""
    for number, group in enumerate(groups):
        for index, p in enumerate(group["params"]):
            if p is param:
                names = group.get("param_names")
                return repr(names[index]) if names else numbered(number, index, p)
    raise KeyError("not a parameter of these groups")


def numbered(group: int, index: int, p: Tensor) -> str:
    """Return the words for a parameter without a name."""
    return f"{index} of group {group}, shape {tuple(p.shape)}"
