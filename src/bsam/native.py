"""The algorithm's lines on a CPU by ``native.cpp``, on lists of tensors of any shape.

Through :func:`torch.compile` a line is a call for each large tensor, with joined copies of the
small ones; calls and copies took longer than the arithmetic. Here a line is one call.
"""

import ctypes
import functools
import operator
import sys
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bsam import building, eager
from bsam import gradients as checks
from bsam.dtypes import state_dtype
from bsam.layout import lie_alike

_TYPES = {torch.float32: "float", torch.float64: "double", torch.bfloat16: "bfloat16"}
PLAIN = (Tensor, torch.nn.Parameter)
"""Types of which it is known that what they mean is what lies in their memory."""

Tensors = Sequence[Tensor]


class Seen(list[Tensor]):
    """A list that kernels look at once, as long as its tensors stay where they are."""

    look: "_Look | None" = None


room, scratch = eager.LOOP.room, eager.LOOP.scratch


def works(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether there are kernels for weights of a kind, building them when first asked.

    Args:
        device: of the weights.
        dtype: of the weights.
    """
    return _meant(device, dtype) and not why_not(device, dtype)


def why_not(device: torch.device, dtype: torch.dtype) -> str:
    """Return why there are no kernels for weights of a kind where there should be, else "".

    Args:
        device: of the weights.
        dtype: of the weights.
    """
    library = _library() if _meant(device, dtype) else None
    return str(library) if isinstance(library, OSError) else ""


def _meant(device: torch.device, dtype: torch.dtype) -> bool:
    return device.type == "cpu" and dtype in _TYPES and sys.platform == "linux"


def sample(weights: Tensors, mean: Tensors, drawn: Tensors, s: Tensors, *, num_data: float) -> None:
    """Move weights to a draw, by noise that is given; see :class:`bsam.eager.Lines` for all."""
    otherwise = functools.partial(eager.LOOP.sample, num_data=num_data)
    _over("sample", "wwss", (weights, mean, drawn, s), [num_data], otherwise)


def sample_stream(
    weights: Tensors,
    mean: Tensors,
    s: Tensors,
    first: Sequence[int],
    *,
    key: int | Tensor,
    num_data: float,
) -> None:
    """Move weights to a draw whose noise is made on the way."""
    otherwise = functools.partial(eager.LOOP.sample_stream, key=key, num_data=num_data)
    stream = (first, int(key))
    _over("sample_stream", "wws", (weights, mean, s), [num_data], otherwise, stream)


def keep_and_sample(
    weights: Tensors,
    keep: Tensors,
    s: Tensors,
    first: Sequence[int],
    *,
    key: int | Tensor,
    num_data: float,
    done: ctypes.c_bool,
) -> bool:
    """Copy weights and move them to a draw, in one go that no signal divides.

    Args:
        weights: where to, from what they are.
        keep: where they are copied to.
        s: state of them.
        first: number of each tensor's first element in the stream.
        key: of the stream.
        num_data: N.
        done: set when all is written.

    Returns:
        False if a kernel cannot read all of them; then nothing has happened.
    """
    dtype = weights[0].dtype
    dtypes = (dtype, dtype, state_dtype(weights[0]))
    looks, odd = _looks((weights, keep, s), dtypes)
    if odd:
        return False
    line = f"keep_and_sample_{_TYPES[dtype]}"
    return _call(line, looks, [num_data], (first, int(key)), moved=weights, done=done)


def all_finite(gradients: Tensors) -> bool:
    """Return whether no gradient has NaN or infinity.

    Args:
        gradients: of weights of one dtype.
    """
    dtype = gradients[0].dtype
    looks, odd = _looks([gradients], [dtype])
    if odd or dtype not in _TYPES:
        return checks.all_finite(gradients)
    return _call(f"all_finite_{_TYPES[dtype]}", looks)


def perturb(weights: Tensors, mean: Tensors, gradients: Tensors, s: Tensors, *, rho: float) -> bool:
    """Move weights uphill; return whether the gradients, read on the way, are finite."""
    otherwise = functools.partial(_then_look, eager.LOOP.perturb, rho=rho)
    return _over("perturb", "wwws", (weights, mean, gradients, s), [rho], otherwise)


def perturb_and_scale(
    weights: Tensors,
    mean: Tensors,
    gradients: Tensors,
    s: Tensors,
    scales: Tensors,
    *,
    rho: float,
    share: float,
) -> bool:
    r"""Move weights uphill, and fold :math:`\sqrt s |g|` into its mean; return as above."""
    otherwise = functools.partial(_then_look, eager.LOOP.perturb_and_scale, rho=rho, share=share)
    lists = (weights, mean, gradients, s, scales)
    return _over("perturb_and_scale", "wwwss", lists, [rho, share], otherwise)


def _then_look(line: Callable[..., None], *odd: list[Tensor], **numbers: float) -> bool:
    """Run a line of the loop, and return whether the gradients that it read are finite."""
    line(*odd, **numbers)
    return checks.all_finite(odd[2])


def update(
    weights: Tensors,
    mean: Tensors,
    exp_avg: Tensors,
    s: Tensors,
    gradients: Tensors,
    scales: Tensors,
    *,
    scaled: bool = True,
    lr: float | Tensor,
    beta1: float,
    beta2: float,
    weight_decay: float,
    damping: float,
    order: str,
) -> None:
    """Make the last three lines in one pass; see :func:`bsam.algorithm.update`."""
    options = {"beta1": beta1, "beta2": beta2, "weight_decay": weight_decay, "damping": damping}
    otherwise = functools.partial(eager.LOOP.update, scaled=scaled, lr=lr, order=order, **options)
    line, kinds = ("update", "wwssws") if scaled else ("update_by_gradients", "wwssww")
    shares = (1.0 - beta1, 1.0 - beta2)
    floor = weight_decay + damping
    numbers = [float(lr), *shares, weight_decay, floor, order == "precision_first"]
    _over(line, kinds, (weights, mean, exp_avg, s, gradients, scales), numbers, otherwise)


def _over(
    line: str,
    kinds: str,
    lists: Sequence[Tensors],
    numbers: Sequence[float],
    otherwise: Callable[..., bool | None],
    stream: tuple[Sequence[int], int] | None = None,
) -> bool:
    """Run a line over tensors that lie alike in memory, and over others as the loop does.

    Args:
        line: its name.
        kinds: for each list w, of the weights' dtype, or s, of their state's.
        lists: of tensors, those that are changed too.
        numbers: hyperparameters.
        otherwise: the same line for lists of tensors that kernels cannot read; as a kernel does, it
            may return False for gradients that are not finite.
        stream: for noise: the numbers of first elements, and the key.
    """
    dtype = lists[0][0].dtype
    dtypes = [dtype if kind == "w" else state_dtype(lists[0][0]) for kind in kinds]
    (looks, odd), finite = _looks(lists, dtypes), True
    if odd:
        first, key = stream or ([0] * len(lists[0]), 0)
        finite = otherwise(*_at(odd, *lists), *(_at(odd, first) if stream else [])) is not False
        even = _all_but(odd, lists[0])
        lists, stream = _at(even, *lists), (_at(even, first)[0], key)
    moved = lists[0]
    return (not moved or _call(f"{line}_{_TYPES[dtype]}", looks, numbers, stream, moved)) and finite


# ------------------------------------------------------------------ what kernels can read


class _Look:
    """Where tensors lie, and their shapes."""

    def __init__(self, tensors: Tensors, shapes: list[torch.Size] | None = None) -> None:
        self.dtype = tensors[0].dtype
        self.shapes = [t.shape for t in tensors] if shapes is None else shapes
        self.places = _places(tensors)

    @functools.cached_property
    def counts(self) -> "array[int]":
        return array("q", [shape.numel() for shape in self.shapes])


def _looks(
    lists: Sequence[Tensors], dtypes: Sequence[torch.dtype]
) -> tuple[list[_Look], list[int]]:
    """Return where tensors lie, and which kernels cannot read: these are left out."""
    looks: list[_Look] = []
    for tensors, dtype in zip(lists, dtypes, strict=True):
        look = _look(tensors, dtype, looks[0].shapes if looks else None)
        if look is None:
            odd = [i for i, row in enumerate(zip(*lists, strict=True)) if _is_odd(row, dtypes)]
            even = _at(_all_but(odd, tensors), *lists)
            return [_Look(each) for each in even if each], odd
        looks.append(look)
    return looks, []


def _look(tensors: Tensors, dtype: torch.dtype, shapes: list[torch.Size] | None) -> _Look | None:
    """Return where tensors lie if they do so by rows, with these shapes."""
    seen = tensors.look if isinstance(tensors, Seen) else None
    same = seen and seen.dtype is dtype and (shapes is None or seen.shapes is shapes)
    if same and _places(tensors) == seen.places:
        return seen
    for i, t in enumerate(tensors):
        # A list of all shapes would have thousands of objects for the garbage collector to count.
        if not (_is_plain(t, dtype) and t.is_contiguous() and (not shapes or t.shape == shapes[i])):
            return None
    look = _Look(tensors, shapes)
    if isinstance(tensors, Seen):
        tensors.look = look
    return look


def _places(tensors: Tensors) -> "array[int]":
    return array("q", [t.data_ptr() for t in tensors])


def _is_odd(tensors: Tensors, dtypes: Sequence[torch.dtype]) -> bool:
    """Whether tensors for one parameter do not lie in memory as kernels take them to.

    Shapes must be the same, as memory beyond a tensor's end is not ours.
    """
    if any(t.shape != tensors[0].shape for t in tensors):
        return True
    return not (all(map(_is_plain, tensors, dtypes)) and lie_alike(tensors))


def _is_plain(tensor: Tensor, dtype: torch.dtype) -> bool:
    """Whether what a tensor means is what lies in its memory, as this dtype."""
    plain = type(tensor) in PLAIN and tensor.dtype is dtype
    return plain and tensor.is_cpu and not (tensor.is_neg() or tensor._is_zerotensor())


def _all_but(odd: Sequence[int], tensors: Tensors) -> list[int]:
    return sorted(set(range(len(tensors))).difference(odd))


def _at(places: Sequence[int], *lists: Sequence[Any]) -> list[list[Any]]:
    return [[each[i] for i in places] for each in lists]


# ------------------------------------------------------------------ how a line is called


class _Call(ctypes.Structure):
    """``Call`` of native.cpp."""

    _fields_ = (
        ("tensors", ctypes.c_int64),
        ("counts", ctypes.c_void_p),
        ("places", ctypes.c_void_p),
        ("numbers", ctypes.c_void_p),
        ("threads", ctypes.c_int64),
        ("first", ctypes.c_void_p),
        ("key", ctypes.c_uint64),
        ("done", ctypes.c_void_p),
    )


def _call(
    function: str,
    looks: Sequence[_Look],
    numbers: Sequence[float] = (),
    stream: tuple[Sequence[int], int] | None = None,
    moved: Tensors = (),
    done: ctypes.c_bool | None = None,
) -> bool:
    """Call a kernel; its result is whether it set ``done``, too."""
    first, key = stream or ((), 0)
    done = ctypes.c_bool() if done is None else done
    places = functools.reduce(operator.add, [look.places for look in looks])
    arrays = [looks[0].counts, places, array("d", numbers), array("q", first)]
    counts, lists, hyperparameters, starts = (each.buffer_info()[0] for each in arrays)
    threads, flag = torch.get_num_threads(), ctypes.addressof(done)
    tensors = len(looks[0].counts)
    call = _Call(tensors, counts, lists, hyperparameters, threads, starts, key % 2**64, flag)
    getattr(_library(), function)(ctypes.byref(call))
    if moved:
        # What autograd keeps of the weights is now out of date, and it must be able to tell.
        torch.autograd.graph.increment_version(moved)
    return bool(done)


@functools.cache
def _library() -> ctypes.CDLL | OSError:
    try:
        return building.load(Path(__file__).with_name("native.cpp"))
    except OSError as error:
        return error
