"""What a step does, counted and not timed: passes over the weights, dispatches, kernel launches."""

import math
import sys
import warnings
from collections import Counter
from contextlib import contextmanager
from itertools import chain
from unittest.mock import patch

import paths
import pytest
import torch
from scenarios import one_thread

import bsam
from bsam import native

SIZES = {"one": [2**17], "many": [300] * 50}

# (path, sizes, sub-batches): (passes over the weights outside of kernels, operations of torch for
# each tensor, runs of kernels). A step that does less lowers them; see the messages.
BOUNDS = {
    ("loop", "one", 1): (32.0, 156.0, 0),
    ("loop", "one", 3): (85.1, 411.0, 0),
    ("loop", "many", 1): (33.3, 55.1, 0),
    ("loop", "many", 3): (89.0, 131.7, 0),
    ("foreach", "one", 1): (32.0, 156.0, 0),
    ("foreach", "one", 3): (85.1, 411.0, 0),
    ("foreach", "many", 1): (33.3, 55.1, 0),
    ("foreach", "many", 3): (89.0, 131.7, 0),
    ("native", "one", 1): (0.0, 10.0, 4),
    ("native", "one", 3): (3.0, 19.0, 10),
    ("native", "many", 1): (0.0, 5.1, 4),
    ("native", "many", 3): (3.0, 14.1, 10),
    ("torch.compile", "one", 1): (3.0, 152.0, 3),
    ("torch.compile", "one", 3): (10.0, 401.0, 7),
    ("torch.compile", "many", 1): (8.1, 42.4, 4),
    ("torch.compile", "many", 3): (21.2, 104.9, 10),
}
CALLS = {"loop": 151.0, "native": 137.0}  # of functions for each tensor, by Python 3.11
SLACK = (0.1, 2.0, 0)  # numbers are gone over too; an operation more or less is no fault

# They look at tensors or make room for them; what copies calls copy_, which is counted.
FREE = {
    "alias",
    "as_strided",
    "contiguous",
    "detach",
    "detach_",
    "empty",
    "empty_like",
    "empty_strided",
    "expand",
    "flatten",
    "is_pinned",
    "lift_fresh",
    "narrow",
    "new_empty",
    "permute",
    "reshape",
    "resize_",
    "select",
    "slice",
    "split",
    "split_with_sizes",
    "squeeze",
    "t",
    "to",
    "transpose",
    "unbind",
    "unsqueeze",
    "view",
    "view_as",
}


# ------------------------------------------------------------------ counting


def events(call):
    """The tree of what torch ran during a call, as a list of roots."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"torch\.(autograd\.)?profiler")
        cpu = torch.profiler.ProfilerActivity.CPU
        with torch.profiler.profile(activities=[cpu], record_shapes=True) as profile:
            call()
    return profile.profiler.kineto_results.experimental_event_tree()


def within(roots):
    """All events of a tree."""
    return chain.from_iterable((root, *within(root.children)) for root in roots)


def elements(event):
    """How many elements an operation goes over: those of its largest argument."""
    if not event.name.startswith("aten::") or event.name.removeprefix("aten::") in FREE:
        return 0
    return max(map(size, event.extra_fields.inputs), default=0)


def size(argument):
    if isinstance(argument, list):  # of tensors
        return sum(map(size, argument))
    return math.prod(argument.sizes) if hasattr(argument, "sizes") else 0


def touched(roots):
    """Elements gone over, by operation: beyond what the operations inside of each go over."""
    total = Counter()
    for event in roots:
        inside = touched(event.children)
        total += inside + Counter({event.name: elements(event) - inside.total()})
    return total


def passes(call, parameters):
    """Elements that torch's operations go over during a call, in multiples of the parameters'.

    The inside of a compiled kernel does not show, nor what is made of numbers alone (``arange``).
    """
    return touched(events(call)).total() / sum(p.numel() for p in parameters)


def operations(roots):
    """How many operations of torch ran, views too: the cost of small tensors."""
    return sum(event.name.startswith("aten::") for event in within(roots))


@contextmanager
def native_kernels():
    """A count of the native kernels that run; torch's profiler does not see them."""
    count, call = Counter(), native._call

    def counted(*arguments, **more):
        count["runs"] += 1
        return call(*arguments, **more)

    with patch.object(native, "_call", counted):
        yield count


def calls_of(call):
    """How many functions Python calls, its own and those written in C."""
    count = Counter()
    before = sys.getprofile()
    sys.setprofile(lambda _, event, __: count.update([event]))
    try:
        call()
    finally:
        sys.setprofile(before)
    return count["call"] + count["c_call"]


def launches(roots):
    """How many kernels of torch.compile ran."""
    return sum("Call CompiledFxGraph" in event.name for event in within(roots))


# ------------------------------------------------------------------ the steps


class Copying(bsam.BSAM):
    """Goes over the weights once more than it need."""

    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p.detach().clone()
        return super().step(closure)


class Sampling(bsam.BSAM):
    """Takes one more sample than it need."""

    def step(self, closure=None):
        result = super().step(closure)
        with self.sampled():
            closure[0]()
        self.zero_grad()
        return result


def prepared(options, sizes, sub_batches, kind=bsam.BSAM):
    """Return a step whose gradients are given, one such step after the first, and the weights."""
    sizes = SIZES.get(sizes, sizes)
    params = [torch.nn.Parameter(torch.randn(each)) for each in sizes]
    gradients = [torch.ones_like(p) for p in params]
    optimizer = kind(params, 0.01, num_data=100, seed=0, **options)

    def closure():
        for p, gradient in zip(params, gradients, strict=True):
            p.grad = gradient

    def step():
        optimizer.step([closure] * sub_batches)

    step()
    return step, params


def measured(step, params):
    """What ``BOUNDS`` bound, and the passes by operation."""
    with native_kernels() as native_runs:
        roots = events(step)
    total = sum(p.numel() for p in params)
    runs = launches(roots) + native_runs["runs"]
    each = {name.removeprefix("aten::"): n / total for name, n in touched(roots).most_common()}
    return (sum(each.values()), operations(roots) / len(params), runs), each


def over(values, bounds):
    """Which of the three are more than they may be."""
    return [value > bound + s for value, bound, s in zip(values, bounds, SLACK, strict=True)]


@pytest.fixture(autouse=True)
def quiet():
    with one_thread():
        yield


@pytest.mark.parametrize(("path", "sizes", "sub_batches"), BOUNDS)
def test_a_step_does_no_more_work_than_it_did(path, sizes, sub_batches, monkeypatch):
    bounds = BOUNDS[path, sizes, sub_batches]
    values, each = measured(*prepared(paths.options(path, monkeypatch), sizes, sub_batches))
    assert not any(over(values, bounds)), (
        "(passes over the weights, operations for each tensor, compiled kernels): now "
        f"{tuple(round(value, 1) for value in values)}, at most {bounds} before. Where the passes "
        f"are: { ({name: round(n, 2) for name, n in each.items()}) }"
    )


@pytest.mark.parametrize(("path", "sizes", "sub_batches"), BOUNDS)
def test_one_pass_more_is_noticed(path, sizes, sub_batches, monkeypatch):
    """If this fails, a step does less than its bounds say: lower them to what is shown."""
    bounds = BOUNDS[path, sizes, sub_batches]
    options = paths.options(path, monkeypatch)
    values, _ = measured(*prepared(options, sizes, sub_batches, Copying))
    assert over(values, bounds)[:2] == [True, True], (
        f"with a pass too many {values}, not > {bounds}"
    )


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("path", paths.COMPILED)
def test_one_launch_more_is_noticed(path, sizes, monkeypatch):
    values, _ = measured(*prepared(paths.options(path, monkeypatch), sizes, 1, Sampling))
    assert over(values, BOUNDS[path, sizes, 1])[2], values


def calls_for_a_tensor(options, kind=bsam.BSAM):
    """How many calls a further small tensor costs in a step."""
    few, many = (prepared(options, (3,) * count, 1, kind)[0] for count in (20, 60))
    return (calls_of(many) - calls_of(few)) / 40


@pytest.mark.parametrize(("path", "most"), CALLS.items())
def test_python_does_no_more_for_a_tensor_than_it_did(path, most, monkeypatch):
    """With thousands of small tensors that is what a step costs."""
    calls = calls_for_a_tensor(paths.options(path, monkeypatch))
    assert calls < most, f"{calls:.1f} calls for each tensor, at most {most} before"


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the bounds are those of Python 3.11")
def test_a_look_more_at_each_tensor_is_noticed(monkeypatch):
    calls = calls_for_a_tensor(paths.options("native", monkeypatch), Copying)
    assert calls > CALLS["native"], f"lower the bound: {calls:.1f} with two calls too many"


def test_passes_are_counted():
    one, several = torch.ones(1000), [torch.ones(10) for _ in range(100)]
    calls = {
        lambda: one.clone(): 1,  # which calls copy_
        lambda: one.add(1.0): 1,
        lambda: one.to(torch.float32).view(10, 100)[1:].detach(): 0,
        lambda: one.to(torch.float64): 1,
        lambda: one.sum(): 1,
        lambda: torch.cat(several): 1,
        lambda: torch._foreach_add(several, several): 1,
        lambda: torch.zeros(1000): 1,
        lambda: one.view(2, 500).t().contiguous(): 1,
        lambda: torch.randn(1000).mul_(one).sqrt(): 3,
    }
    for call, expected in calls.items():
        assert passes(call, [one]) == pytest.approx(expected, abs=0.15)
