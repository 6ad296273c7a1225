"""Kernels built from C++: where they come from, what they read, what they tell."""

import ctypes
import itertools
import math
import os
import stat
import subprocess
import sys
from pathlib import Path

import paths
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import bsam
from bsam import borrowing, building, eager, kernels, native, noise
from bsam import gradients as checks

CPU = torch.device("cpu")
SOURCE = Path(native.__file__).with_name("native.cpp")
SMALL = 'extern "C" int answer() { return 42; }\n'


@pytest.fixture(scope="module", autouse=True)
def native_works():
    paths.require_native()


# ------------------------------------------------------------------ building


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A source of one line and a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source = tmp_path / "small.cpp"
    source.write_text(SMALL)
    return source


def kept(tmp_path):
    return sorted((tmp_path / "cache" / "bsam").glob("*"))


def test_what_was_built_is_kept_and_found(small, tmp_path, monkeypatch):
    assert building.load(small).answer() == 42
    (library,) = kept(tmp_path)
    assert library.suffix == ".so"
    monkeypatch.setattr(building, "_build", None)  # calling it would fail
    assert building.load(small).answer() == 42


def test_another_source_is_another_library(small, tmp_path):
    building.load(small)
    small.write_text(SMALL.replace("42", "43"))
    assert building.load(small).answer() == 43
    assert len(kept(tmp_path)) == 2


@pytest.mark.parametrize("damage", ["empty", "half", "zeros at the end"])
def test_a_damaged_library_is_built_again(small, tmp_path, damage):
    """Loading such a one may end the process, so it must not be tried."""
    code = "import sys; from bsam import building; from pathlib import Path; "
    code += "assert building.load(Path(sys.argv[1])).answer() == 42"
    run = [sys.executable, "-c", code, str(small)]
    subprocess.run(run, check=True)
    (library,) = kept(tmp_path)
    whole = library.read_bytes()
    damaged = {
        "empty": b"",
        "half": whole[: len(whole) // 2],
        "zeros at the end": whole[:4096] + bytes(len(whole) - 4096),
    }
    library.write_bytes(damaged[damage])
    subprocess.run(run, check=True)
    assert library.read_bytes() == whole


def test_on_another_processor_it_is_built_again(small, tmp_path, monkeypatch):
    building.load(small)
    told = building._processor()
    monkeypatch.setattr(building, "_processor", lambda: told + "another")
    building.load(small)
    assert len(kept(tmp_path)) == 2


def test_what_was_built_needs_no_compiler(small, monkeypatch):
    building.load(small)
    monkeypatch.setenv("CXX", "false")
    assert building.load(small).answer() == 42


@pytest.mark.parametrize("cache", ["a file", "no home"])
def test_where_nothing_can_be_kept_it_is_built_all_the_same(small, tmp_path, monkeypatch, cache):
    monkeypatch.setenv("XDG_CACHE_HOME", "somewhere" if cache == "no home" else str(small))
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    monkeypatch.chdir(tmp_path)
    assert building.load(small).answer() == 42
    assert sorted(tmp_path.iterdir()) == [small]


def test_without_a_compiler(small, monkeypatch, tmp_path):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(OSError, match=r"no C\+\+ compiler: set CXX"):
        building.load(small)


def test_the_compiler_can_be_named(small, monkeypatch, tmp_path):
    called = tmp_path / "called"
    mine = tmp_path / "mine"
    mine.write_text(f'#!/bin/sh\ntouch {called}\nexec "{building._compiler()[0]}" "$@"\n')
    mine.chmod(mine.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CXX", f"{mine} -g0")
    assert building.load(small).answer() == 42
    assert called.exists()


@pytest.mark.parametrize("compiler", ["/nowhere/cxx", "false", "cxx 'unfinished"])
def test_a_compiler_that_fails(small, monkeypatch, compiler):
    monkeypatch.setenv("CXX", compiler)
    with pytest.raises(OSError, match=compiler.rsplit("/", 1)[-1]):
        building.load(small)


def test_a_compiler_of_few_words(small, monkeypatch, tmp_path):
    """In no encoding at all."""
    mine = tmp_path / "mine"
    mine.write_text("#!/bin/sh\nprintf '\\377' >&2; exit 1\n")
    mine.chmod(mine.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CXX", str(mine))
    with pytest.raises(OSError, match="failed"):
        building.load(small)


def test_a_source_that_does_not_compile(small, tmp_path):
    small.write_text("this is not C++\n")
    with pytest.raises(OSError, match="failed: "):
        building.load(small)
    assert not kept(tmp_path)


def test_where_it_does_not_build_torch_compile_takes_its_place(monkeypatch, tmp_path):
    """With one warning, which has the compiler's words."""
    broken = tmp_path / "native.cpp"
    broken.write_text("this is not C++\n")

    def load(_, plain=building.load):
        return plain(broken)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(building, "load", load)
    native._library.cache_clear()
    p = nn.Parameter(torch.ones(3))
    try:
        optimizer = bsam.BSAM([p], 0.1, num_data=10, compiled=True)
        with pytest.warns(UserWarning, match=r"error: expected.*torch\.compile") as seen:
            optimizer.step(lambda: p.square().sum().backward())
        assert len(seen) == 1
        optimizer.step(lambda: p.square().sum().backward())
    finally:
        native._library.cache_clear()
        kernels._works.cache_clear()
    assert (p != 1).all()


def test_elsewhere_than_on_linux_nothing_is_built_or_said(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    assert not native.works(CPU, torch.float32)
    assert not native.why_not(CPU, torch.float32)


def test_no_second_openmp_is_loaded():
    """Its threads would fight with torch's for the processor."""
    code = """
import torch
from bsam import native
def loaded():
    return {line.split()[-1] for line in open("/proc/self/maps") if "omp" in line}
before = loaded()
assert native.works(torch.device("cpu"), torch.float32)
assert loaded() == before, loaded()
"""
    subprocess.run([sys.executable, "-c", code], check=True, env=dict(os.environ))


# ------------------------------------------------------------------ what the lines read and write


def problem(dtype, shapes=((130_000,), (300, 7), (), (0,), (2049,))):
    """Weights, mean, exp_avg, s, gradients, first gradients, scales, noise."""
    generator = torch.Generator().manual_seed(0)

    def draw(dtype):
        return [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]

    state = torch.float64 if dtype == torch.float64 else torch.float32
    mean = draw(dtype)
    weights = [each.clone() for each in mean]
    s = [each.abs() + 0.1 for each in draw(state)]
    return {
        "weights": weights,
        "mean": mean,
        "exp_avg": draw(state),
        "s": s,
        "gradients": draw(dtype),
        "first": draw(dtype),
        "scales": [each.abs() for each in draw(state)],
        "noise": draw(state),
    }


NUMBERS = {"lr": 0.1, "beta1": 0.9, "beta2": 0.99, "weight_decay": 0.01, "damping": 0.1}


def all_lines(lines, p):
    """Every line, one after the other, so that a fault in one shows in all that follows."""
    w, m, s, g = (p[name] for name in ("weights", "mean", "s", "gradients"))
    first = noise.first_elements(w)
    lines.sample(w, m, p["noise"], s, num_data=50.0)
    after = [[t.clone() for t in w]]
    lines.sample_stream(w, m, s, first, key=noise.stream_key(1, 2, 3), num_data=50.0)
    after.append([t.clone() for t in w])
    lines.perturb(w, m, g, s, rho=0.05)
    after.append([t.clone() for t in w])
    new = [torch.full_like(t, math.nan) for t in p["scales"]]
    lines.perturb_and_scale(w, m, g, s, new, rho=0.05, share=1.0)
    lines.perturb_and_scale(w, m, p["first"], s, p["scales"], rho=0.05, share=0.3)
    after.append([t.clone() for t in (*w, *new, *p["scales"])])
    for order, scaled in itertools.product(("precision_first", "mean_first"), (True, False)):
        scales = p["scales"] if scaled else p["first"]
        lines.update(w, m, p["exp_avg"], s, g, scales, scaled=scaled, order=order, **NUMBERS)
        after.append([t.clone() for t in (*w, *p["exp_avg"], *s)])
    return after


TOLERANCES = {torch.float32: 2e-6, torch.float64: 1e-13, torch.bfloat16: 8e-3}


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_all_lines_in_every_dtype_are_those_of_the_loop(dtype, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        ours, theirs = all_lines(native, problem(dtype)), all_lines(eager.LOOP, problem(dtype))
    finally:
        torch.set_num_threads(before)
    for a, b in zip(itertools.chain(*ours), itertools.chain(*theirs), strict=True):
        tolerance = TOLERANCES[dtype] if a.dtype == dtype else TOLERANCES[a.dtype]
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def test_bfloat16_weights_are_rounded_to_the_nearest():
    """To even where two are as near; NaN and infinity stay what they are."""
    values = [1.0 + 2.0**-8, 1.0 + 3 * 2.0**-8, -1.0 - 2.0**-8, 3.4e38, math.inf, math.nan, 1e-40]
    s = [torch.ones(len(values))]
    noise = [torch.tensor(values)]
    at, zeros = (
        [torch.zeros(len(values), dtype=torch.bfloat16)],
        [torch.zeros(len(values), dtype=torch.bfloat16)],
    )
    native.sample(at, zeros, noise, s, num_data=1.0)
    torch.testing.assert_close(at[0], noise[0].bfloat16(), rtol=0, atol=0, equal_nan=True)


class Mine(torch.Tensor):
    """A user's own kind of tensor."""


ODD = {
    "turned": lambda t: t.t(),
    "strided": lambda t: torch.stack([t, t], -1)[..., 0],
    "another dtype": lambda t: t.double(),
    "negated lazily": lambda t: torch._neg_view(-t),
    "a subclass": lambda t: t.as_subclass(Mine),
    "zero without memory": lambda t: torch._efficientzerotensor(t.shape),
}


@pytest.mark.parametrize("which", ["first", "middle", "all"])
@pytest.mark.parametrize("odd", ODD)
def test_gradients_that_lie_otherwise(odd, which):
    def prepared():
        p = problem(torch.float32, shapes=((40, 40), (50, 50), (60, 60)))
        for i in {"first": [0], "middle": [1], "all": [0, 1, 2]}[which]:
            for name in ("gradients", "first"):
                p[name][i] = ODD[odd](p[name][i])
        return p

    for a, b in zip(
        itertools.chain(*all_lines(native, prepared())),
        itertools.chain(*all_lines(eager.LOOP, prepared())),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=2e-6, atol=2e-6, check_dtype=False)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [(0, 0), (0, 69_999), (4, 2048), (2, 0)])
def test_not_finite_is_told(dtype, bad, place):
    p = problem(dtype)
    g = p["gradients"]
    huge = torch.finfo(dtype).max
    g[1].fill_(huge)  # whose sum is no number of that dtype, and each of which is finite
    arguments = (p["weights"], p["mean"], g, p["s"])
    assert native.all_finite(g)
    assert native.perturb(*arguments, rho=0.0)
    assert native.perturb_and_scale(*arguments, p["scales"], rho=0.0, share=0.5)
    g[place[0]].view(-1)[place[1]] = bad
    assert not native.all_finite(g)
    assert not native.perturb(*arguments, rho=0.0)
    assert not native.perturb_and_scale(*arguments, p["scales"], rho=0.0, share=0.5)


@pytest.mark.parametrize("odd", [0, 1])
def test_not_finite_is_told_of_what_kernels_cannot_read(odd):
    p = problem(torch.float32, shapes=((40, 40), (50, 50)))
    p["gradients"][0] = p["gradients"][0].t()
    arguments = (p["weights"], p["mean"], p["gradients"], p["s"])
    assert native.perturb(*arguments, rho=0.1)
    p["gradients"][odd][3, 4] = math.nan
    assert not native.all_finite(p["gradients"])
    assert not native.perturb(*arguments, rho=0.1)


@pytest.mark.parametrize("name", ["mean", "exp_avg", "s", "gradients", "scales"])
@pytest.mark.parametrize("shape", [(2, 3), (7,), (5,)])
def test_memory_beyond_a_tensors_end_is_left_alone(name, shape):
    """Shapes that disagree are an error, as on the other paths."""
    p = problem(torch.float32, shapes=((3, 2),))
    p[name] = [torch.ones(shape)]
    lists = [p[n] for n in ("weights", "mean", "exp_avg", "s", "gradients", "scales")]
    with pytest.raises(RuntimeError, match=r"size|shape"):
        native.update(*lists, order="mean_first", **NUMBERS)


@pytest.mark.parametrize("offset", range(4))
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_much_is_written_as_little_is(dtype, offset):
    """More than a cache holds is stored another way, from any address on, and nowhere else.

    The parts are too few numbers for that, each in a call of its own.
    """
    count, part = (1 << 20) + 5, 1 << 18
    p = {name: each[0] for name, each in problem(dtype, shapes=((count,),)).items()}
    around = torch.full((count + 8,), 7.0, dtype=dtype)
    p["weights"] = around[offset : offset + count]
    parts = [
        dict(zip(p, each, strict=True))
        for each in zip(*(t.clone().split(part) for t in p.values()), strict=True)
    ]

    def moved(problems):
        results = [[] for _ in range(6)]
        for each in problems:
            lists = {name: [t] for name, t in each.items()}
            w, m, s, g = (lists[name] for name in ("weights", "mean", "s", "gradients"))
            native.perturb(w, m, lists["first"], s, rho=0.05)
            results[0].append(w[0].clone())
            native.perturb_and_scale(w, m, g, s, lists["scales"], rho=0.05, share=0.3)
            results[1].append(w[0].clone())
            state = (lists["exp_avg"], s, g, lists["scales"])
            native.update(w, m, *state, order="mean_first", **NUMBERS)
            for result, t in zip(results[2:], (*w, *state[0], *s, *state[3]), strict=True):
                result.append(t)
        return map(torch.cat, results)

    for a, b in zip(moved([p]), moved(parts), strict=True):
        torch.testing.assert_close(a, b, rtol=TOLERANCES[dtype], atol=0)
    assert (around[:offset] == 7.0).all()
    assert (around[offset + count :] == 7.0).all()


@given(
    sizes=st.lists(st.integers(0, 5000), min_size=1, max_size=8),
    first=st.integers(0, 3 * noise.BLOCK),
    key=st.integers(0, 2**64 - 1),
)
def test_the_stream_is_the_same_however_it_is_cut(sizes, first, key):
    """Where tensors begin and end, within blocks or across them, changes no number of it."""
    weights = [torch.zeros(size, dtype=torch.float64) for size in sizes]
    ones, zeros = [torch.ones_like(w) for w in weights], [torch.zeros_like(w) for w in weights]
    starts = [first + start for start in noise.first_elements(weights)]
    native.sample_stream(weights, zeros, ones, starts, key=key, num_data=1.0)
    whole = torch.zeros(first + sum(sizes), dtype=torch.float64)
    (numbers,) = noise.standard_normal_like([whole], [0], key)
    torch.testing.assert_close(torch.cat(weights), numbers[first:], rtol=1e-12, atol=1e-12)


def test_autograd_notices_that_weights_moved():
    w = torch.ones(3, requires_grad=True)
    loss = (w * w).sum()
    with torch.no_grad():
        native.perturb([w], [w], [torch.ones(3)], [torch.ones(3)], rho=1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


# ------------------------------------------------------------------ copying and moving in one go


def test_keeping_and_sampling_is_both():
    p = problem(torch.float32)
    before = [t.clone() for t in p["weights"]]
    places = [torch.full_like(t, 7.0) for t in before]
    first, key = noise.first_elements(before), noise.stream_key(1, 2, 3)
    done = ctypes.c_bool()
    about = {"key": key, "num_data": 50.0}
    assert native.keep_and_sample(p["weights"], places, p["s"], first, done=done, **about)
    assert done.value
    expected = [torch.empty_like(t) for t in before]
    native.sample_stream(expected, before, p["s"], first, **about)
    for kept_, was, at, wanted in zip(places, before, p["weights"], expected, strict=True):
        assert torch.equal(kept_, was)
        assert torch.equal(at, wanted)


@pytest.mark.parametrize("offset", range(5))
def test_much_is_kept_bit_for_bit(offset):
    """More than a cache holds is stored another way, from any address on."""
    count = (1 << 20) + 5 * offset
    weights = torch.randn(count + offset)[offset:]
    place = torch.zeros(count + offset)[offset:]
    before = weights.clone()
    s, done = torch.ones(count), ctypes.c_bool()
    assert native.keep_and_sample([weights], [place], [s], [3], key=1, num_data=1.0, done=done)
    assert torch.equal(place, before)
    assert (weights - before).std() == pytest.approx(1.0, abs=0.01)


def test_what_cannot_be_kept_so_is_left_alone():
    weights = torch.randn(4, 4)
    before, place, done = weights.clone(), torch.zeros(4, 4).t(), ctypes.c_bool()
    about = {"key": 1, "num_data": 1.0, "done": done}
    assert not native.keep_and_sample([weights], [place], [torch.ones(4, 4)], [0], **about)
    assert not done.value
    assert torch.equal(weights, before)


def test_a_promise_counts_once_it_is_kept():
    weights, place = torch.ones(2), torch.zeros(2)
    aside = borrowing.Aside()
    done = aside.promise([weights], [place])
    place.fill_(5.0)
    assert aside.lacks([weights])  # nothing was set: whoever promised was interrupted before
    aside.put_back()
    assert weights.tolist() == [1.0, 1.0]
    done = aside.promise([weights], [place])
    weights.fill_(9.0)
    done.value = True
    assert not aside.lacks([weights])
    aside.put_back()
    assert weights.tolist() == [5.0, 5.0]


@pytest.mark.parametrize("after", ["keep_and_sample", "_call"])
def test_ctrl_c_straight_after_the_weights_moved(after, monkeypatch):
    """Before anything is noted in Python: the weights come back all the same."""
    model = nn.Linear(30, 40)
    optimizer = bsam.BSAM(model.parameters(), 0.1, num_data=10, seed=0, compiled=True)
    before = [p.detach().clone() for p in model.parameters()]
    plain = getattr(native, after)

    def interrupted(*arguments, **more):
        plain(*arguments, **more)
        assert not torch.equal(model.weight, before[0])
        raise KeyboardInterrupt

    for door in (optimizer.step, by_contexts):
        with monkeypatch.context() as patched:
            patched.setattr(native, after, interrupted)
            with pytest.raises(KeyboardInterrupt):
                door(lambda: model(torch.ones(2, 30)).sum().backward()) if door is not by_contexts \
                    else by_contexts(optimizer)  # fmt: skip
        assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))


def by_contexts(optimizer):
    with optimizer.sampled():
        pass


@pytest.mark.parametrize("path", paths.OPTIONS)
@pytest.mark.parametrize("groups", [1, 2])
def test_weights_that_share_memory_come_back(path, groups, monkeypatch):
    """Tied by their storage: none may be copied when another has moved it."""
    whole = torch.randn(100)
    a, b, c = nn.Parameter(whole), nn.Parameter(whole.view(50, 2)), nn.Parameter(whole[90:])
    params = [a, b, c] if groups == 1 else [{"params": [a, c]}, {"params": [b]}]
    options = paths.options(path, monkeypatch)
    optimizer = bsam.BSAM(params, 0.1, num_data=2, seed=0, **options)
    before = whole.clone()
    with optimizer.sampled():
        assert not torch.equal(whole, before)
    assert torch.equal(whole, before)
    optimizer.zero_grad()
    with pytest.raises(ZeroDivisionError):
        optimizer.step(lambda: 1 / 0)
    assert torch.equal(whole, before)


def test_ctrl_c_with_several_bundles(monkeypatch):
    """Of which one has moved, one not, and one is of a dtype that has no kernels."""
    dtypes = (torch.float32, torch.float64, torch.float32)
    params = [nn.Parameter(torch.randn(50, dtype=dtype)) for dtype in dtypes]
    groups = [{"params": params[:2]}, {"params": params[2:]}]
    optimizer = bsam.BSAM(groups, 0.1, num_data=2, seed=0, compiled=True)
    before = [p.detach().clone() for p in params]
    plain, calls = native._call, []

    def interrupted(*arguments, **more):
        result = plain(*arguments, **more)
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(native, "_call", interrupted)
    with pytest.raises(KeyboardInterrupt), optimizer.sampled():
        pass
    moved = [arguments[0] for arguments in calls]
    assert moved == ["keep_and_sample_float", "keep_and_sample_double"]
    assert all(torch.equal(p, b) for p, b in zip(params, before, strict=True))


# ------------------------------------------------------------------ in a step


@pytest.mark.parametrize("sub_batches", [1, 3])
@pytest.mark.parametrize("kept_gradients", [False, True])
@pytest.mark.parametrize("path", ["loop", "native"])
def test_a_gradient_that_is_not_finite(path, sub_batches, kept_gradients, monkeypatch):
    """Found as the weights move, told as ever: the pass, the parameter; all is as before."""
    model = nn.Linear(4, 3)
    options = paths.options(path, monkeypatch)
    optimizer = bsam.BSAM(model.parameters(), 0.1, num_data=10, seed=0, **options)
    holders = []

    def closure():
        for p in model.parameters():
            p.grad = torch.ones_like(p)
            holders.append(p.grad if kept_gradients else None)
        if optimizer.phase == wrong:
            model.bias.grad[1] = math.nan

    wrong = "never"
    optimizer.step([closure] * sub_batches)
    before = [t.clone() for p in model.parameters() for t in (p, *optimizer.state[p].values())]
    for wrong in ("sampled", "perturbed"):
        expected = f"the {wrong} pass gave a non-finite gradient: parameter .*1 of 3 elements"
        with pytest.raises(RuntimeError, match=expected):
            optimizer.step([closure] * sub_batches)
        after = [t for p in model.parameters() for t in (p, *optimizer.state[p].values())]
        assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))
        assert optimizer.phase == "mean"


def test_in_contexts_it_is_told_at_the_end_of_the_first():
    model = nn.Linear(4, 3)
    optimizer = bsam.BSAM(model.parameters(), 0.1, num_data=10, seed=0, compiled=True)
    with (
        pytest.raises(RuntimeError, match="the sampled pass gave a non-finite"),
        optimizer.sampled(),
    ):
        (model(torch.ones(2, 4)).sum() * math.nan).backward()


def test_capturable_does_not_look():
    model = nn.Linear(4, 3)
    options = {"num_data": 10, "compiled": True, "capturable": True}
    optimizer = bsam.BSAM(model.parameters(), 0.1, seed=0, **options)
    optimizer.step(lambda: (model(torch.ones(2, 4)).sum() * math.nan).backward())
    assert model.weight.isnan().any()


def test_mixed_dtypes_in_one_optimizer():
    """Some parameters by kernels, some otherwise, in one group."""
    runs = []
    for compiled in (False, True):
        torch.manual_seed(0)
        dtypes = (torch.float32, torch.bfloat16, torch.float64, torch.float16)
        params = [nn.Parameter(torch.randn(50, 3).to(dtype)) for dtype in dtypes]
        optimizer = bsam.BSAM(params, 0.01, num_data=1e4, seed=0, compiled=compiled)
        for _ in range(3):
            optimizer.step(lambda params=params: sum(p.square().sum() for p in params).backward())
        runs.append(params)
    for a, b in zip(*runs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2 if a.dtype.itemsize == 2 else 1e-5, atol=1e-5)


def test_what_checks_say_is_what_kernels_say():
    g = [torch.full((1000,), 3e38), torch.zeros(0), torch.zeros(3)]
    assert checks.all_finite(g) is native.all_finite(g) is True
    g[2][1] = math.inf
    assert checks.all_finite(g) is native.all_finite(g) is False
