"""Parameters that are worked on together, with what belongs to each of them.

Splitting groups, looking up state and asking each tensor for its shape took most of the time of a
step with many small tensors. All of it holds until something is moved, so it is kept until then.
"""

import operator
import weakref
from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from bsam import noise
from bsam.native import PLAIN, Seen

State = Mapping[Tensor, dict[str, Any]]

_NOTHING: dict[str, Any] = {}


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
        self._found: dict[str, _Found] = {}

    def states(self, state: State, name: str) -> Seen:
        """Return what is called so in the state of each.

        Args:
            state: of the optimizer, the same that :meth:`holds` was told last.
            name: such as ``"s"``.
        """
        if name not in self._states:
            self._states[name] = Seen(state[p][name] for p in self)
            self._found[name] = _Found(self._states[name])
        return self._states[name]

    def holds(self, state: State) -> bool:
        """Return whether the state still has the tensors that were found in it, as they were.

        Args:
            state: of the optimizer.
        """
        each = [state.get(p, _NOTHING) for p in self] if self._found else []
        for name, found in self._found.items():
            now: list[Any] = [one.get(name) for one in each]
            if name in self._states:
                if not all(map(operator.is_, now, self._states[name])):
                    return False
            elif found.again(now):
                self._states[name] = Seen(now)
                self._states[name].look = found.look
            else:
                return False
        return True

    def let_go(self) -> None:
        """Hold on to no state: whoever moves it elsewhere between steps wants the memory."""
        for name, tensors in self._states.items():
            self._found[name].look = tensors.look
        self._states = {}


class _Found:
    """Which tensors were found and what they were like, without keeping them."""

    look: Any = None

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = [weakref.ref(t) for t in tensors]
        self._dtypes = [t.dtype for t in tensors]
        self._counts = [t.numel() for t in tensors]

    def again(self, tensors: Sequence[Any]) -> bool:
        """Return whether these are they, and are still like that; None stands for a missing one."""
        for t, found in zip(tensors, self._tensors, strict=True):
            if t is None or t is not found():
                return False
        same_dtypes = [t.dtype for t in tensors] == self._dtypes
        return same_dtypes and [t.numel() for t in tensors] == self._counts


def split(groups: Sequence[dict[str, Any]], chosen: Sequence[Tensor]) -> Iterator[Bundle]:
    """Yield bundles of the parameters chosen, in the order of the groups.

    Args:
        groups: of an optimizer.
        chosen: of its parameters; the others count in the stream of noise all the same.
    """
    first, among = first_elements(groups), set(chosen)
    for group in groups:
        kinds: dict[Any, list[Tensor]] = {}
        for p in group["params"]:
            if p in among:
                kinds.setdefault((p.device, p.dtype), []).append(p)
        for params in kinds.values():
            yield Bundle(params, group, [first[p] for p in params])


def first_elements(groups: Sequence[dict[str, Any]]) -> dict[Tensor, int]:
    """Return by parameter the number in the stream of noise of its first element.

    Args:
        groups: of an optimizer, whose parameters lie end to end in it.
    """
    every = [p for group in groups for p in group["params"]]
    return dict(zip(every, noise.first_elements(every), strict=True))


class Look:
    """How the parameters of all groups lie, for a comparison later."""

    def __init__(self, params: Sequence[Tensor], about: Any) -> None:
        self._about = about
        self._shapes = [p.shape for p in params]

    def holds(self, params: Sequence[Tensor], about: Any) -> bool:
        """Return whether they do so now."""
        if about != self._about:
            return False
        # One by one: thousands of shapes at once would keep the garbage collector busy.
        return all(p.shape == shape for p, shape in zip(params, self._shapes, strict=True))


def look(groups: Sequence[dict[str, Any]], before: Look | None = None) -> Look | None:
    """Return how parameters lie: the same as before unless one, or a group, was changed or moved.

    Args:
        groups: of an optimizer.
        before: what this gave last.

    Returns:
        None, which tells nothing, for parameters that are not plain, on a CPU and contiguous: to
        ask these would take as long as to start anew.
    """
    params = [p for group in groups for p in group["params"]]
    if not all(type(p) in PLAIN and p.is_cpu and p.is_contiguous() for p in params):
        return None
    places = array("q", map(id, params))
    places.extend([p.data_ptr() for p in params])
    kinds = [p.dtype for p in params], [p.requires_grad for p in params]
    options = [(id(group), len(group["params"]), group.get("capturable")) for group in groups]
    about = (places, kinds, options)
    return before if before and before.holds(params, about) else Look(params, about)
