"""fp16 with torch's GradScaler, on the CPU: gradients unscaled once, overflow skips the step."""

import math

import pytest
import torch
from scenarios import Problem, batch, identical, mlp
from torch import nn

import bsam


def bsam_over(params):
    return bsam.BSAM(params, lr=0.1, num_data=20, seed=0)


def sam_over(params):
    return bsam.SAM(params, torch.optim.SGD, rho=0.1, lr=0.1, momentum=0.9)


both = pytest.mark.parametrize("make", [bsam_over, sam_over])


def scaler_of(**options):
    return torch.amp.GradScaler("cpu", **({"init_scale": 2.0**10, "growth_interval": 3} | options))


def scaled(closure, scaler, params, plant=None):
    """Run a closure with its gradients scaled, and plant a value that no number holds."""
    closure()
    scale = scaler.scale(torch.ones(())).item()
    for p in params:
        p.grad = p.grad * scale
    if plant is not None:
        params[0].grad.view(-1)[0] = plant


def step(optimizer, scaler, closures, params, plant=(None, None), at=0):
    """One step by the contexts; ``plant`` goes into the two passes of sub-batch ``at``."""
    for j, closure in enumerate(closures):
        values = plant if j == at else (None, None)
        with optimizer.sampled(scaler=scaler):
            scaled(closure, scaler, params, values[0])
        with optimizer.perturbed(scaler=scaler):
            scaled(closure, scaler, params, values[1])
    scaler.step(optimizer)
    scaler.update()


@both
@pytest.mark.parametrize("m", [1, 3])
def test_with_a_scaler_the_run_is_the_same(make, m):
    """Scales are powers of two, so in float64 not even rounding differs, while the scale grows."""
    problem, other = Problem(), Problem()
    a, b, scaler = make(problem.params), make(other.params), scaler_of()
    for _ in range(7):
        step(a, scaler, problem.closures(m), problem.params)
        b.step(other.closures(m))
    assert scaler.get_scale() == 2.0**12
    assert identical(problem.params, other.params)
    for p, q in zip(problem.params, other.params, strict=True):
        for name in a.state[p]:
            assert torch.equal(torch.as_tensor(a.state[p][name]), torch.as_tensor(b.state[q][name]))


@both
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("in_pass", [0, 1])
@pytest.mark.parametrize(("m", "at"), [(1, 0), (3, 0), (3, 1), (3, 2)])
@pytest.mark.parametrize("zeroing", [True, False])
def test_an_overflow_in_either_pass_skips_the_step(make, value, in_pass, m, at, zeroing):
    """Weights and state stay, the scale backs off by itself, and the run goes on as without it."""
    problem, other = Problem(), Problem()
    a, b, scaler = make(problem.params), make(other.params), scaler_of(growth_interval=1000)
    plant = [None, None]
    plant[in_pass] = value
    for number in range(4):
        if number == 2:
            before = [p.detach().clone() for p in problem.params]
            step(a, scaler, problem.closures(m), problem.params, plant, at)
            assert identical(problem.params, before)
            assert scaler.get_scale() == 2.0**9
            assert a.phase == "mean"
            if zeroing:
                a.zero_grad()
        step(a, scaler, problem.closures(m), problem.params)
        b.step(other.closures(m))
    assert identical(problem.params, other.params)
    assert a.state_dict()["param_groups"] == b.state_dict()["param_groups"]


@both
def test_after_an_overflow_the_second_pass_is_at_the_mean(make):
    problem = Problem()
    optimizer, scaler = make(problem.params), scaler_of()
    mean = [p.detach().clone() for p in problem.params]
    with optimizer.sampled(scaler=scaler):
        scaled(problem.closure(), scaler, problem.params, math.inf)
    with optimizer.perturbed(scaler=scaler):
        assert identical(problem.params, mean)
        scaled(problem.closure(), scaler, problem.params)
    assert not any(p.grad.isfinite().any() for p in problem.params)


@both
def test_clipping_after_unscaling(make):
    problem, other = Problem(), Problem()
    a, b, scaler = make(problem.params), make(other.params), scaler_of()
    for optimizer, params, closure in (
        (a, problem.params, problem.closure()),
        (b, other.params, other.closure()),
    ):
        use = scaler if optimizer is a else None
        for context in (optimizer.sampled(scaler=use), optimizer.perturbed(scaler=use)):
            with context:
                scaled(closure, use, params) if use else closure()
        if use:
            scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(params, 0.1)
        scaler.step(optimizer) if use else optimizer.step()
    scaler.update()
    assert identical(problem.params, other.params)


def half_model():
    model, (x, y) = mlp(), batch()

    def loss():
        with torch.autocast("cpu", dtype=torch.float16):
            return nn.functional.cross_entropy(model(x), y)

    return model, loss


@both
def test_training_in_fp16_with_a_scale_that_is_too_large_at_first(make):
    """The ordinary loop: real fp16 gradients, which overflow until the scale is low enough."""
    model, loss = half_model()
    optimizer = make(model.parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40, growth_interval=10**6)
    losses = []
    for _ in range(80):
        with optimizer.sampled(scaler=scaler):
            scaler.scale(loss()).backward()
        with optimizer.perturbed(scaler=scaler):
            value = loss()
            scaler.scale(value).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(value.item())
    assert 2.0**8 < scaler.get_scale() < 2.0**30
    assert losses[-1] < 0.7 * losses[0]
    assert all(p.isfinite().all() for p in model.parameters())


@both
def test_bfloat16_needs_no_scaler(make):
    model, (x, y) = mlp(), batch()
    optimizer = make(model.parameters())

    def closure():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        return loss

    losses = [optimizer.step(closure).item() for _ in range(60)]
    assert losses[-1] < 0.7 * losses[0]


@both
def test_a_disabled_scaler_is_none(make):
    problem, other = Problem(), Problem()
    a, b = make(problem.params), make(other.params)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    step(a, scaler, problem.closures(), problem.params)
    b.step(other.closures())
    assert identical(problem.params, other.params)
    with pytest.raises(RuntimeError, match="sampled pass gave a non-finite gradient"):
        step(a, scaler, problem.closures(), problem.params, (math.inf, None))


@both
def test_loss_scale_and_scaler_together(make):
    problem, other = Problem(), Problem()
    a, b, scaler = make(problem.params), make(other.params), scaler_of()
    for context in (a.sampled(scaler=scaler, loss_scale=4.0), a.perturbed(loss_scale=4.0)):
        with context:
            scaled(problem.closure(), scaler, problem.params)
            for p in problem.params:
                p.grad /= 4
    scaler.step(a)
    b.step(other.closure())
    assert identical(problem.params, other.params)


# ------------------------------------------------------------------ misuse


@both
def test_contexts_that_forget_the_scaler_are_pointed_out(make):
    problem = Problem()
    optimizer, scaler = make(problem.params), scaler_of()
    before = [p.detach().clone() for p in problem.params]
    for context in (optimizer.sampled(), optimizer.perturbed()):
        with context:
            scaled(problem.closure(), scaler, problem.params)
    with pytest.raises(RuntimeError, match=r"the contexts were not given the scaler: pass it"):
        scaler.step(optimizer)
    assert identical(problem.params, before)
    optimizer.zero_grad()
    disabled = torch.amp.GradScaler("cpu", enabled=False)
    for context in (optimizer.sampled(), optimizer.perturbed()):
        with context:
            problem.closure()()
    disabled.step(optimizer)
    assert not identical(problem.params, before)


@both
def test_a_step_that_forgets_the_scaler_is_refused(make):
    problem = Problem()
    optimizer, scaler = make(problem.params), scaler_of()
    before = [p.detach().clone() for p in problem.params]
    for context in (optimizer.sampled(scaler=scaler), optimizer.perturbed(scaler=scaler)):
        with context:
            scaled(problem.closure(), scaler, problem.params)
    with pytest.raises(RuntimeError, match=r"still scaled: call scaler\.step\(optimizer\)"):
        optimizer.step()
    assert identical(problem.params, before)
    scaler.step(optimizer)
    assert not identical(problem.params, before), "nothing was lost"


@both
def test_sub_batches_with_and_without_a_scaler_do_not_mix(make):
    problem = Problem()
    optimizer, scaler = make(problem.params), scaler_of()
    for context in (optimizer.sampled(scaler=scaler), optimizer.perturbed(scaler=scaler)):
        with context:
            scaled(problem.closure(), scaler, problem.params)
    message = "scaler: must be the same in all sub-batches"
    with pytest.raises(RuntimeError, match=message), optimizer.sampled():
        pass
    scaler.step(optimizer)


@both
def test_an_overflow_reaches_whoever_sums_gradients(make):
    """As DDP does: by hooks, before the pass ends. All processes must see it, or they part."""
    model, loss = half_model()
    optimizer, scaler, seen = make(model.parameters()), scaler_of(), []
    with optimizer.sampled(scaler=scaler):
        scaler.scale(loss()).backward()
        next(model.parameters()).grad[0] = math.inf
    handles = [
        p.register_post_accumulate_grad_hook(lambda p: seen.append(p.grad.isinf().all().item()))
        for p in model.parameters()
    ]
    with optimizer.perturbed(scaler=scaler):
        scaler.scale(loss()).backward()
    assert seen == [True] * 4
    for handle in handles:
        handle.remove()
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()
    loss().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters()), "nothing of it may stay"


@both
def test_a_trainer_may_hand_the_scaler_a_wrapper(make):
    class Wrapper:
        def __init__(self, optimizer):
            self.inner, self.param_groups = optimizer, optimizer.param_groups

        def step(self):
            self.inner.step()

    problem, other = Problem(), Problem()
    a, b, scaler = make(problem.params), make(other.params), scaler_of()
    for context in (a.sampled(scaler=scaler), a.perturbed(scaler=scaler)):
        with context:
            scaled(problem.closure(), scaler, problem.params)
    scaler.step(Wrapper(a))
    b.step(other.closure())
    assert identical(problem.params, other.params)


@both
def test_a_scaler_in_the_second_pass_alone_is_refused(make):
    problem = Problem()
    optimizer = make(problem.params)
    with optimizer.sampled():
        problem.closure()()
    with (
        pytest.raises(ValueError, match=r"scaler: perturbed\(\) got one that sampled\(\) did not"),
        optimizer.perturbed(scaler=scaler_of()),
    ):
        pass
    with optimizer.perturbed():
        problem.closure()()
    optimizer.step()


@both
@pytest.mark.parametrize("wrong", [1024.0, "cpu", True])
def test_what_is_not_a_scaler_is_refused(make, wrong):
    optimizer = make(Problem().params)
    message = r"scaler=.*: must be a torch\.amp\.GradScaler"
    with pytest.raises(TypeError, match=message), optimizer.sampled(scaler=wrong):
        pass
    assert optimizer.phase == "mean"
