"""Parameters of every kind: shapes, layouts, dtypes, frozen, unused, tied."""

import gc
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scenarios import Problem, Recording, batch, closure_for, identical, mlp

import bsam


def bsam_over(params, **options):
    return bsam.BSAM(params, **{"lr": 0.1, "num_data": 20, "seed": 0, **options})


def sam_over(params):
    return bsam.SAM(params, torch.optim.SGD, rho=0.1, lr=0.1)


both = pytest.mark.parametrize("make", [bsam_over, sam_over])


def square(params):
    def closure():
        loss = sum((p.double() ** 2).sum() for p in params if p.requires_grad)
        loss.backward()
        return loss

    return closure


@both
def test_odd_shapes_and_layouts(make):
    params = [
        torch.nn.Parameter(torch.tensor(2.0)),
        torch.nn.Parameter(torch.empty(0, 3)),
        torch.nn.Parameter(torch.randn(4, 3).t()),
        torch.nn.Parameter(torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)),
        torch.nn.Parameter(torch.randn(6)[::2].detach()),
    ]
    strides = [p.stride() for p in params]
    places = [p.data_ptr() for p in params]
    optimizer = make(params)
    losses = [optimizer.step(square(params)).item() for _ in range(20)]
    assert losses[-1] < losses[0]
    assert [p.stride() for p in params] == strides
    assert [p.data_ptr() for p in params] == places


@settings(max_examples=25)
@given(
    shapes=st.lists(st.lists(st.integers(0, 4), max_size=3), min_size=1, max_size=5),
    dtypes=st.lists(st.sampled_from([torch.float32, torch.float64, torch.bfloat16]), min_size=5),
    m=st.integers(1, 3),
    cut=st.integers(0, 4),
)
def test_loop_and_foreach_are_bit_identical(shapes, dtypes, m, cut):
    def run(foreach):
        torch.manual_seed(0)
        params = [
            torch.nn.Parameter(torch.randn(shape, dtype=torch.float64).to(dtype))
            for shape, dtype in zip(shapes, dtypes, strict=False)
        ]
        groups = [{"params": params[:cut]}, {"params": params[cut:], "lr": 0.03}]
        optimizer = bsam_over(groups, foreach=foreach)
        for _ in range(3):
            optimizer.step([square(params)] * m)
        return params + [value for p in params for value in optimizer.state[p].values()]

    if not any(torch.Size(shape).numel() for shape in shapes):
        return
    assert identical(run(False), run(True))


@both
def test_frozen_and_thawed(make):
    model, (x, y) = mlp(), batch()
    first = model[0]
    first.requires_grad_(False)
    before = [p.clone() for p in first.parameters()]
    optimizer = make(model.parameters())
    optimizer.step(closure_for(model, x, y))
    assert identical(first.parameters(), before)
    assert not any(p in optimizer.state for p in first.parameters())
    first.requires_grad_(True)
    optimizer.step(closure_for(model, x, y))
    assert not identical(first.parameters(), before)
    first.requires_grad_(False)
    after = [p.clone() for p in first.parameters()]
    optimizer.step(closure_for(model, x, y))
    assert identical(first.parameters(), after), "a gradient from before the freeze was used"


def test_freezing_does_not_change_the_noise_of_others():
    a, b = mlp(), mlp()
    b[0].requires_grad_(False)
    one, two = (Recording(m.parameters(), lr=0.1, num_data=9, seed=0) for m in (a, b))
    x, y = batch()
    one.step(closure_for(a, x, y))
    two.step(closure_for(b, x, y))
    assert identical(one.draws[0][2:], two.draws[0])


@both
def test_unused_parameters_keep_mean_and_state(make):
    used, unused = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3))
    optimizer = make([used, unused])
    for _ in range(3):
        optimizer.step(square([used]))
    assert torch.equal(unused, torch.ones(3))
    if make is bsam_over:
        state = optimizer.state[unused]
        assert state["step"] == 0
        assert torch.equal(state["s"], torch.ones(3))


@both
def test_tied_parameters_count_once(make):
    tied, single = Problem(), Problem()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        a = make(tied.params + tied.params[:1])
    b = make(single.params)
    for _ in range(3):
        a.step(tied.closures())
        b.step(single.closures())
    assert len(a.param_groups[0]["params"]) == 3
    assert identical(tied.params, single.params)


@both
def test_tied_modules(make):
    embed, out = torch.nn.Embedding(5, 4), torch.nn.Linear(4, 5, bias=False)
    out.weight = embed.weight
    model = torch.nn.Sequential(embed, out)
    optimizer = make(list(embed.named_parameters("in")) + list(out.named_parameters("out")))
    tokens = torch.arange(5)
    closure = closure_for(model, tokens, tokens)
    losses = [optimizer.step(closure).item() for _ in range(30)]
    assert losses[-1] < losses[0]


@both
def test_groups_of_named_parameters(make):
    model = mlp()
    named = list(model.named_parameters())
    optimizer = make([{"params": named[:2]}, {"params": named[2:]}])
    assert optimizer.param_groups[0]["param_names"] == ["0.weight", "0.bias"]
    optimizer.step(closure_for(model, *batch()))


@both
def test_an_empty_group_beside_another(make):
    """Trainers make a group without decay, which may be empty."""
    model = mlp()
    optimizer = make([{"params": model.parameters()}, {"params": [], "weight_decay": 0.0}])
    optimizer.step(closure_for(model, *batch()))


@both
def test_parameters_from_generators_and_outside_modules(make):
    optimizer = make(p for p in mlp().parameters())
    assert len(optimizer.param_groups[0]["params"]) == 4


def test_bfloat16_weights_move_with_float32_state():
    wide, narrow = mlp(), mlp(torch.bfloat16)
    x, y = batch()
    a = bsam_over(wide.parameters(), num_data=1e3)
    b = bsam_over(narrow.parameters(), num_data=1e3)
    for _ in range(20):
        a.step(closure_for(wide, x, y))
        b.step(closure_for(narrow, x.bfloat16(), y))
    for p, q in zip(wide.parameters(), narrow.parameters(), strict=True):
        assert b.state[q]["s"].dtype == torch.float32
        torch.testing.assert_close(p, q.float(), rtol=0, atol=0.05)
        torch.testing.assert_close(a.state[p]["s"], b.state[q]["s"], rtol=0.05, atol=0)


def test_noise_has_the_dtype_of_the_state():
    dtypes = (torch.float32, torch.float64, torch.bfloat16, torch.float64)
    params = [torch.nn.Parameter(torch.ones(3, dtype=dtype)) for dtype in dtypes]
    optimizer = bsam_over(params)
    noise = optimizer.draw_noise(params)
    wide = [torch.float32, torch.float64, torch.float32, torch.float64]
    assert [n.dtype for n in noise] == wide


def test_no_more_copies_than_promised():
    """At the peak two copies beside weights, gradients, exp_avg and s: the mean and sqrt(s)|g|."""
    p = torch.nn.Parameter(torch.zeros(100_000))
    optimizer = bsam_over([p])
    alive = {}

    def closure():
        p.grad = torch.ones_like(p)
        gc.collect()
        tensors = {
            t.untyped_storage().data_ptr()
            for t in gc.get_objects()
            if issubclass(type(t), torch.Tensor) and t.numel() == p.numel()
        }
        alive[optimizer.phase] = len(tensors)
        return 0.0

    for _ in range(2):
        optimizer.step(closure)
    assert alive["perturbed"] <= 4 + 2
    assert alive["sampled"] <= 4 + 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@both
def test_parameters_on_two_devices(make):
    params = [torch.nn.Parameter(torch.ones(5)), torch.nn.Parameter(torch.ones(5, device="cuda"))]

    def closure():
        loss = sum((p.cpu() ** 2).sum() for p in params)
        loss.backward()
        return loss

    optimizer = make(params)
    for _ in range(3):
        optimizer.step(closure)
    for p in params:
        assert (p != 1).all()
        assert all(v.device == p.device for k, v in optimizer.state[p].items() if k != "step")
