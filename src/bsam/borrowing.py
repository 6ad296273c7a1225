"""Borrowing a model: its weights and its mode are changed for a while and put back."""

import ctypes
from collections.abc import Callable, Container, Generator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Aside:
    """What tensors held before they were moved: taken once, put back when asked."""

    def __init__(self) -> None:
        self._before: dict[Tensor, Tensor] = {}
        self._promised: list[tuple[ctypes.c_bool, Sequence[Tensor], Sequence[Tensor]]] = []
        self._kept: list[tuple[Sequence[Tensor], Sequence[Tensor]]] = []  # promises that were kept

    def take(self, tensors: Sequence[Tensor], room: Callable[[list[Tensor]], list[Tensor]]) -> None:
        """Copy what tensors hold now, where it is not taken already.

        Args:
            tensors: about to be moved.
            room: makes uninitialized tensors like those given, to copy them into.
        """
        self._settle()
        new = [tensor for tensor in tensors if tensor not in self._before]
        if not new:
            return
        places = room(new)
        with torch.no_grad():
            torch._foreach_copy_(places, new)
        self._before.update(zip(new, places, strict=True))

    def promise(self, tensors: Sequence[Tensor], places: Sequence[Tensor]) -> ctypes.c_bool:
        """Return a flag for a kernel that copies and moves tensors in one go, and then sets it.

        From then on they count as taken: no Ctrl-C can come between, and none is lost before.

        Args:
            tensors: about to be moved, none of them taken.
            places: where the kernel copies them to.
        """
        flag = ctypes.c_bool(False)
        self._promised.append((flag, tensors, places))
        return flag

    def _settle(self) -> None:
        for flag, tensors, places in self._promised:
            if flag:
                self._before.update(zip(tensors, places, strict=True))
                self._kept.append((tensors, places))
        self._promised = []

    def lacks(self, tensors: Sequence[Tensor]) -> bool:
        """Return whether none of these was taken."""
        self._settle()
        return not self._before or self._before.keys().isdisjoint(tensors)

    def of(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return what was taken of each; of one that was not moved, the tensor itself."""
        self._settle()
        for promised, places in self._kept:
            if promised is tensors:
                return places
        return [self._before.get(tensor, tensor) for tensor in tensors]

    def put_back(self, without: Container[Tensor] = ()) -> None:
        """Have tensors hold, bit for bit, what was taken; what was taken stays."""
        try:
            self._put_back(without)
        except BaseException:  # Ctrl-C in the middle of it
            self._put_back(without)
            raise

    def _put_back(self, without: Container[Tensor]) -> None:
        self._settle()
        moved = {t: value for t, value in self._before.items() if t not in without}
        if moved:
            move(list(moved), list(moved.values()))

    def forget(self) -> None:
        """Forget what was taken."""
        self._before, self._promised, self._kept = {}, [], []


@contextmanager
def restored(tensors: Sequence[Tensor]) -> Generator[None, None, None]:
    """Have tensors hold after the block, bit for bit, what they held before, however it ends.

    Values are copied in place: storage never moves, so views of it survive.

    Args:
        tensors: any; the copies cost their memory while the block lasts.
    """
    aside = Aside()
    aside.take(tensors, lambda new: [torch.empty_like(tensor) for tensor in new])
    try:
        yield
    finally:
        aside.put_back()


@torch.no_grad()
def move(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Copy values into tensors in place.

    Autocast keeps casts of weights that it has seen; whoever moves weights clears them, or a
    forward pass goes on at the weights as they were.

    Args:
        tensors: where to.
        values: what, one for each, of its shape.
    """
    pairs = list(zip(tensors, values, strict=True))
    if any(map(_shares_memory, tensors)):
        # An expanded tensor, whose elements share memory, cannot be copied into; it is a constant.
        pairs = [(t, v) for t, v in pairs if not (_shares_memory(t) and torch.equal(t, v))]
    if pairs:
        torch._foreach_copy_([t for t, _ in pairs], [v for _, v in pairs])
    torch.clear_autocast_cache()


def _shares_memory(tensor: Tensor) -> bool:
    return any(
        length > 1 and step == 0 for length, step in zip(tensor.shape, tensor.stride(), strict=True)
    )


@contextmanager
def evaluating(model: nn.Module) -> Generator[None, None, None]:
    """Have the model in evaluation mode inside the block, and each module as it was afterwards.

    Args:
        model: any module.
    """
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training
