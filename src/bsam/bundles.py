"""Parameters that are worked on together, with what belongs to each of them.

Splitting groups, looking up state and asking each tensor for its shape took most of the time of a
step with many small tensors. All of it holds until something is moved, so it is kept until then.
"""

import operator
from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from bsam import noise
from bsam.native import PLAIN, Seen


class Bundle(Seen):
    """Parameters of one group, device and dtype.

    Args:
        params: the parameters.
        group: theirs.
        first: the number of each one's first element in the stream of noise.
    """

    room: Seen | None = None
    """Where the mean of each is kept while it is elsewhere, if that lasts."""

    def __init__(self, params: Sequence[Tensor], group: dict[str, Any], first: list[int]) -> None:
        super().__init__(params)
        self.group = group
        self.first = first
        self._states: dict[str, Seen] = {}

    def states(self, state: Mapping[Tensor, dict[str, Any]], name: str) -> Seen:
        """Return what is called so in the state of each.

        Args:
            state: of the optimizer, the same that :meth:`holds` was told last.
            name: such as ``"s"``.
        """
        if name not in self._states:
            self._states[name] = Seen(state[p][name] for p in self)
        return self._states[name]

    def holds(self, state: Mapping[Tensor, dict[str, Any]]) -> bool:
        """Return whether the state still has the tensors that were found in it.

        Args:
            state: of the optimizer.
        """
        if not self._states:
            return True
        each = [state.get(p) or {} for p in self]
        return all(
            all(map(operator.is_, found, [one.get(name) for one in each]))
            for name, found in self._states.items()
        )


def split(groups: Sequence[dict[str, Any]], chosen: Sequence[Tensor]) -> Iterator[Bundle]:
    """Yield bundles of the parameters chosen, in the order of the groups.

    Args:
        groups: of an optimizer.
        chosen: of its parameters; the others count in the stream of noise all the same.
    """
    every, among = [p for group in groups for p in group["params"]], set(chosen)
    first = dict(zip(every, noise.first_elements(every), strict=True))
    for group in groups:
        kinds: dict[Any, list[Tensor]] = {}
        for p in group["params"]:
            if p in among:
                kinds.setdefault((p.device, p.dtype), []).append(p)
        for params in kinds.values():
            yield Bundle(params, group, [first[p] for p in params])


def look(groups: Sequence[dict[str, Any]]) -> Any:
    """Return what differs as soon as any parameter or group is another one or lies otherwise.

    Args:
        groups: of an optimizer.

    Returns:
        None, which tells nothing, for parameters that are not plain, on a CPU and contiguous: to
        ask these would take as long as to start anew.
    """
    params = [p for group in groups for p in group["params"]]
    if not all(type(p) in PLAIN and p.is_cpu and p.is_contiguous() for p in params):
        return None
    numbers = array("q", map(id, params))
    numbers.extend([p.data_ptr() for p in params])
    numbers.extend([p.numel() for p in params])
    kinds = [p.dtype for p in params], [p.requires_grad for p in params]
    return numbers, kinds, [(id(group), len(group["params"])) for group in groups]
