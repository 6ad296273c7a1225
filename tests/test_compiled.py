"""The compiled paths: the numbers of the others, one compilation for all shapes, a way round."""

import math

import paths
import pytest
import torch
from torch import nn

import bsam
from bsam import algorithm, building, compiled, eager, kernels, native, noise

CPU = torch.device("cpu")
LARGE = compiled.large(CPU)


@pytest.fixture
def way(request, monkeypatch):
    """A way to make the lines, where it can be had."""
    if request.param in paths.COMPILED:
        paths.options(request.param, monkeypatch)
    return WAYS[request.param]


@pytest.fixture(params=paths.COMPILED)
def options(request, monkeypatch):
    """Options of BSAM for each compiled path."""
    return paths.options(request.param, monkeypatch)


def tensors(shapes, seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]


def bundle(shapes, dtype=torch.float32):
    """Weights, averaged gradients, s, gradients and scales."""
    weights, exp_avg, gradients = (tensors(shapes, seed, dtype) for seed in (0, 1, 2))
    s, scales = ([t.abs() + 0.1 for t in tensors(shapes, seed, dtype)] for seed in (3, 4))
    return weights, exp_avg, s, gradients, scales


def close(one, other):
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def copied(lists):
    return [[t.clone() for t in each] for each in lists]


SHAPES = [
    [(3,)],
    [(2, 5), (), (0,), (7,)],
    [(200, 200), (33,), (64, 64, 3, 3), (5, 1)],
    [(3000,)] * 5,
    [(LARGE,), (LARGE - 1,), (3, LARGE + 7)],
]
WAYS = {
    "loop": eager.LOOP,
    "foreach": eager.FOREACH,
    "native": native,
    "torch.compile": compiled,
}


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@pytest.mark.parametrize("order", ["precision_first", "mean_first"])
@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("way", WAYS, indirect=True)
def test_every_way_is_the_lines_of_the_algorithm(shapes, order, elsewhere, way):
    """With the mean in the weights themselves, and at another place."""
    numbers = {"lr": 0.1, "beta1": 0.9, "beta2": 0.99, "weight_decay": 0.01, "damping": 0.1}
    lines = way

    def places():
        weights, exp_avg, s, gradients, scales = bundle(shapes)
        at = [torch.full_like(w, 7.0) for w in weights] if elsewhere else weights
        return at, weights, exp_avg, s, gradients, scales

    results = []
    at, mean, exp_avg, s, gradients, scales = places()
    lines.sample(at, mean, gradients, s, num_data=50.0)
    results += at
    at, mean, exp_avg, s, gradients, scales = places()
    recorded = lines.room(at)
    lines.perturb_and_scale(at, mean, gradients, s, recorded, rho=0.05, share=1.0)
    results += [*at, *(each.clone() for each in recorded)]
    at, mean, *_ = places()
    lines.perturb_and_scale(at, mean, exp_avg, s, recorded, rho=0.05, share=0.25)
    results += recorded
    at, mean, exp_avg, s, gradients, scales = places()
    lines.update(at, mean, exp_avg, s, gradients, scales, order=order, **numbers)
    results += [*at, *exp_avg, *s]

    expected = []
    weights, exp_avg, s, gradients, scales = bundle(shapes)
    algorithm.sample(weights, gradients, s, num_data=50.0)
    expected += weights
    weights, *_ = bundle(shapes)
    algorithm.perturb(weights, gradients, s, rho=0.05)
    first = algorithm.gradient_scales(gradients, s)
    second = algorithm.gradient_scales(exp_avg, s)
    expected += [*weights, *first]
    expected += [0.75 * a + 0.25 * b for a, b in zip(first, second, strict=True)]
    weights, exp_avg, s, gradients, scales = bundle(shapes)
    algorithm.update(weights, exp_avg, s, gradients, scales, order=order, **numbers)
    expected += [*weights, *exp_avg, *s]
    close(results, expected)


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@pytest.mark.parametrize("way", WAYS, indirect=True)
@pytest.mark.parametrize("offset", [0, 10, noise.BLOCK])
@pytest.mark.parametrize("apart", [1, 3])
def test_noise_made_on_the_way_is_the_stream(shapes, way, offset, apart):
    weights, _, s, *_ = bundle(shapes)
    first = [offset + apart * number for number in noise.first_elements(weights)]
    key = noise.stream_key(5, 7, 2)
    drawn = noise.standard_normal_like(weights, first, key)
    expected = [w + e / (20.0 * each).sqrt() for w, e, each in zip(weights, drawn, s, strict=True)]
    way.sample_stream(weights, weights, s, first, key=key, num_data=20.0)
    for a, b in zip(weights, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=2e-6)


def convolutions():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 40, 3), nn.Flatten(1),
                         nn.Linear(160, 3))  # fmt: skip


def trained(model, steps=5, sub_batches=2, **options):
    inputs = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    inputs = inputs.to(next(model.parameters()).dtype)
    optimizer = bsam.BSAM(model.parameters(), 0.01, num_data=1e4, seed=3, **options)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.8)

    def closure_over(rows):
        def closure():
            loss = model(inputs[rows]).square().mean()
            loss.backward()
            return loss

        return closure

    parts = torch.arange(8).chunk(sub_batches)
    for _ in range(steps):
        optimizer.step([closure_over(rows) for rows in parts])
        scheduler.step()
    state = [optimizer.state[p][name] for p in model.parameters() for name in ("exp_avg", "s")]
    return [*(p.detach() for p in model.parameters()), *state]


@pytest.mark.parametrize("sub_batches", [1, 2])
def test_a_run_is_that_of_the_loop(sub_batches, options):
    runs = [trained(convolutions(), sub_batches=sub_batches, **path) for path in ({}, options)]
    for a, b in zip(*runs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_channels_last(options):
    models = [convolutions().to(memory_format=torch.channels_last) for _ in range(2)]
    runs = [trained(model, **path) for model, path in zip(models, ({}, options), strict=True)]
    assert models[1][2].weight.is_contiguous(memory_format=torch.channels_last)
    for a, b in zip(*runs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("convert", ["the model", "by loading"])
def test_state_that_lies_otherwise_than_the_weights(convert, options):
    """Converted to channels_last in the middle of a run, or loaded from a run by rows."""
    runs = []
    for path in ({"foreach": False}, options):
        model = convolutions()
        about = {"num_data": math.inf, "betas": (0.9, 0.9), "damping": 0.01, **path}
        optimizer = bsam.BSAM(model.parameters(), 0.05, **about)
        inputs = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(1))

        def closure(model=model, inputs=inputs):
            model(inputs).square().mean().backward()

        optimizer.step(closure)
        model.to(memory_format=torch.channels_last)
        if convert == "by loading":
            state = optimizer.state_dict()
            optimizer = bsam.BSAM(model.parameters(), 0.05, **about)
            optimizer.load_state_dict(state)
        for _ in range(3):
            optimizer.step(closure)
        state = [optimizer.state[p][name] for p in model.parameters() for name in ("exp_avg", "s")]
        runs.append([*(p.detach() for p in model.parameters()), *state])
    for a, b in zip(*runs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_another_default_device(options):
    model = convolutions()
    gradients = [p.detach().clone() for p in model.parameters()]

    def closure():
        for p, gradient in zip(model.parameters(), gradients, strict=True):
            p.grad = gradient

    optimizer = bsam.BSAM(model.parameters(), 0.01, num_data=1e4, seed=3, **options)
    with torch.device("meta"):
        optimizer.step(closure)
    assert {state["step"].device.type for state in optimizer.state.values()} == {"cpu"}


def test_storage_does_not_move(options):
    model = convolutions()
    before = [p.data_ptr() for p in model.parameters()]
    trained(model, **options)
    assert [p.data_ptr() for p in model.parameters()] == before


def test_nothing_is_compiled_again(monkeypatch):
    """Neither for other shapes, nor for other hyperparameters, nor as the count of steps grows."""
    paths.options("torch.compile", monkeypatch)
    trained(convolutions(), compiled=True)
    with torch.compiler.set_stance("fail_on_recompile"):
        trained(convolutions(), compiled=True, rho=0.07, betas=(0.8, 0.95), weight_decay=0.2)
        trained(nn.Sequential(nn.Flatten(1), nn.Linear(108, 500), nn.Linear(500, 7)), compiled=True)


def test_a_subclass_that_draws_its_own_noise_is_honoured(options):
    class Still(bsam.BSAM):
        def draw_noise(self, params):
            return [torch.zeros_like(p) for p in params]

    model = convolutions()
    optimizer = Still(model.parameters(), 0.1, num_data=1.0, **options)
    before = [p.detach().clone() for p in model.parameters()]
    with optimizer.sampled():
        assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
        model(torch.randn(2, 3, 6, 6)).sum().backward()


def test_without_a_compiler_it_goes_on_with_one_warning(monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found")

    def nowhere(_):
        raise OSError("no C++ compiler")

    monkeypatch.setattr(building, "load", nowhere)
    monkeypatch.setattr(kernels, "_compiled", broken)
    native._library.cache_clear()
    kernels._works.cache_clear()
    try:
        with pytest.warns(UserWarning, match="compiled=True: no kernel could be compiled") as seen:
            run = trained(convolutions(), compiled=True)
        assert len(seen) == 1
    finally:
        native._library.cache_clear()
        kernels._works.cache_clear()
    close(run, trained(convolutions(), compiled=False))
