"""On a GPU: the numbers of the CPU on every path, and whole steps in a CUDA graph."""

import functools

import pytest
import torch
from torch import nn

import bsam
from bsam import compiled, noise

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")

PATHS = {
    "loop": {"foreach": False},
    "foreach": {"foreach": True},
    "compiled": {"compiled": True},
    "capturable": {"capturable": True},
    "compiled, capturable": {"compiled": True, "capturable": True},
}


def network(device, dtype=torch.float32, memory_format=torch.contiguous_format):
    torch.manual_seed(0)
    layers = (
        nn.Conv2d(3, 16, 3),
        nn.Tanh(),
        nn.Conv2d(16, 40, 3),
        nn.Flatten(1),
        nn.Linear(160, 3),
    )
    return nn.Sequential(*layers).to(device, dtype, memory_format=memory_format)


def batch(device, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(8, 3, 6, 6, generator=generator, dtype=torch.float64).to(device, dtype)


def closures(model, inputs, sub_batches):
    def closure_over(rows):
        def closure():
            loss = model(rows).square().mean()
            loss.backward()
            return loss.detach()

        return closure

    return [closure_over(rows.clone()) for rows in inputs.chunk(sub_batches)]


def optimizer_of(model, **options):
    options = {"lr": 0.05, "num_data": 1e3, "rho": 0.05, "seed": 3, **options}
    return bsam.BSAM(model.parameters(), betas=(0.9, 0.9), damping=0.01, **options)


def values(model, optimizer):
    state = [optimizer.state[p][name] for p in model.parameters() for name in ("exp_avg", "s")]
    return [t.detach().double().cpu() for t in (*model.parameters(), *state)]


def close(one, other, tolerance):
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_noise_is_that_of_the_cpu(dtype):
    kinds = {"seed": 1, "call": 2, "sub_batch": 3, "dtype": dtype}
    here, there = (noise.standard_normal(5, 5000, device=d, **kinds).cpu() for d in ("cpu", "cuda"))
    close([here], [there], 1e-12 if dtype == torch.float64 else 1e-5)


def test_the_noise_of_a_large_tensor_made_in_a_kernel():
    """Large enough to be worked on alone, and not a whole number of blocks."""
    weights = [torch.zeros(compiled.large(torch.device("cuda")) + 5000, device="cuda")]
    key, s = noise.stream_key(1, 2, 3), [torch.ones_like(weights[0])]
    compiled.sample_stream(weights, weights, s, [77], key=key, num_data=1.0)
    close(weights, noise.standard_normal_like(weights, [77], key), 1e-4)


@pytest.mark.parametrize("sub_batches", [1, 2])
@pytest.mark.parametrize("path", PATHS)
def test_a_run_is_that_of_the_cpu(path, sub_batches):
    """In float64, so that what differs is the code and not the rounding."""
    runs = []
    for device, options in (("cpu", {"foreach": False}), ("cuda", PATHS[path])):
        model = network(device, torch.float64)
        optimizer = optimizer_of(model, **options)
        for _ in range(5):
            optimizer.step(closures(model, batch(device, torch.float64), sub_batches))
        runs.append(values(model, optimizer))
    close(*runs, 1e-9)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("path", PATHS)
def test_a_run_in_float32(path, memory_format):
    runs = []
    for options in (PATHS["foreach"], PATHS[path]):
        model = network("cuda", memory_format=memory_format)
        optimizer = optimizer_of(model, **options)
        for _ in range(3):
            optimizer.step(closures(model, batch("cuda"), 2))
        runs.append(values(model, optimizer))
    close(*runs, 1e-4)


@pytest.mark.parametrize("sub_batches", [1, 3])
@pytest.mark.parametrize("path", ["capturable", "compiled, capturable"])
def test_a_captured_step_is_the_step(path, sub_batches):
    """Warm up, capture, replay: the same run as without a graph, noise, counters and rate too."""
    runs = []
    for graphed in (False, True):
        model, inputs = network("cuda", torch.float64), batch("cuda", torch.float64)
        rate = torch.tensor(0.05, device="cuda")
        optimizer = optimizer_of(model, lr=rate, **PATHS[path])
        step = closures(model, inputs, sub_batches)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                optimizer.step(step)
        torch.cuda.current_stream().wait_stream(side)
        replay = functools.partial(optimizer.step, step)
        if graphed:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                optimizer.step(step)
            replay = graph.replay
        for number in range(4):
            rate.fill_(0.05 / (1 + number))
            replay()
        torch.cuda.synchronize()
        assert int(optimizer.param_groups[0]["calls"]) == 7
        assert {int(optimizer.state[p]["step"]) for p in model.parameters()} == {7}
        runs.append(values(model, optimizer))
    close(*runs, 1e-10)


def test_a_captured_state_goes_to_the_cpu_and_back(tmp_path):
    model = network("cuda")
    optimizer = optimizer_of(model, capturable=True)
    optimizer.step(closures(model, batch("cuda"), 1))
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True, map_location="cpu")
    other = network("cuda")
    other.load_state_dict(model.state_dict())
    again = optimizer_of(other, capturable=True)
    again.load_state_dict(state)
    for each, owner in ((optimizer, model), (again, other)):
        each.step(closures(owner, batch("cuda"), 1))
    close(values(model, optimizer), values(other, again), 1e-6)


def test_nothing_is_compiled_again():
    model = network("cuda")
    optimizer_of(model, compiled=True).step(closures(model, batch("cuda"), 2))
    with torch.compiler.set_stance("fail_on_recompile"):
        model = network("cuda", memory_format=torch.channels_last)
        optimizer = optimizer_of(model, compiled=True, lr=0.2, rho=0.1, num_data=50.0)
        for _ in range(3):
            optimizer.step(closures(model, batch("cuda"), 2))
