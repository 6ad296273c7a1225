"""Laws that a right implementation keeps and a wrong one breaks.

A law takes ``make(params, **options) -> optimizer`` and raises AssertionError where it is broken.
``test_laws.py`` holds BSAM and SAM to them, ``test_laws_have_teeth.py`` faulty optimizers.
"""

import copy
import io
import itertools

import numpy as np
import pytest
import reference
import torch
from scenarios import Problem, batch, closure_for, identical, mlp

HYPER = {"lr": 0.1, "num_data": 20.0, "rho": 0.1, "betas": (0.8, 0.9), "weight_decay": 0.05}


def params_of(problem):
    return [p.detach().clone() for p in problem.params]


# ------------------------------------------------------------------ for BSAM and SAM


def learning_rate_zero_moves_nothing(make):
    problem = Problem()
    optimizer = make(problem.params, lr=0.0)
    for _ in range(3):
        optimizer.step(problem.closures())
    assert identical(problem.params, [torch.tensor(w) for w in problem.start])


def step_returns_the_mean_loss_at_the_perturbed_points(make):
    problem, seen = Problem(), []

    def watched(closure):
        def run():
            loss = closure()
            seen.append((optimizer.phase, loss.item()))
            return loss

        return run

    optimizer = make(problem.params)
    loss = optimizer.step([watched(c) for c in problem.closures()])
    assert isinstance(loss, torch.Tensor), "step(closure) must return the loss"
    assert loss.shape == ()
    assert not loss.requires_grad
    assert [phase for phase, _ in seen] == ["sampled", "perturbed"] * 3
    perturbed = [value for phase, value in seen if phase == "perturbed"]
    np.testing.assert_allclose(loss.item(), np.mean(perturbed), rtol=1e-14)


def contexts_restore_the_mean_bit_for_bit(make):
    """However a context ends; storage stays where it is."""
    problem = Problem(dtype=torch.float32)
    optimizer = make(problem.params)
    optimizer.step(problem.closures())
    mean = params_of(problem)
    places = [p.data_ptr() for p in problem.params]
    for fails_in in ("sampled", "perturbed", None):
        closure = problem.closure()
        try:
            with optimizer.sampled():
                closure()
                if fails_in == "sampled":
                    raise KeyError
            assert identical(problem.params, mean)
            with optimizer.perturbed():
                assert not identical(problem.params, mean)
                closure()
                if fails_in == "perturbed":
                    raise KeyError
        except KeyError:
            pass
        assert identical(problem.params, mean), f"not the mean after an exit from {fails_in}"
        assert optimizer.phase == "mean"
    assert [p.data_ptr() for p in problem.params] == places
    optimizer.step()
    assert not identical(problem.params, mean), "the step after the exceptions did nothing"


def an_exception_in_a_closure_leaves_everything_as_it_was(make):
    problem = Problem()
    optimizer = make(problem.params)
    optimizer.step(problem.closures())
    mean, state = params_of(problem), copy.deepcopy(optimizer.state_dict())
    for call in range(4):
        failing = failing_at(call, problem.closure())
        with pytest.raises(KeyError):
            optimizer.step([failing, failing])
        assert identical(problem.params, mean), "weights are not those before the step"
        same_state(optimizer.state_dict(), state)
    optimizer.step(problem.closures())


def resuming_is_exact(make):
    """Through a file that loads without running code, into a new optimizer with other settings."""
    whole, cut = Problem(dtype=torch.float32), Problem(dtype=torch.float32)
    torch.manual_seed(1)
    a = make(whole.params)
    torch.manual_seed(1)
    b = make(cut.params)
    for _ in range(3):
        a.step(whole.closures())
        b.step(cut.closures())
    file = io.BytesIO()
    torch.save({"weights": params_of(cut), "optimizer": b.state_dict()}, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    resumed = Problem(dtype=torch.float32)
    torch.manual_seed(2)
    c = make(resumed.params, lr=0.7)
    with torch.no_grad():
        for p, w in zip(resumed.params, loaded["weights"], strict=True):
            p.copy_(w)
    c.load_state_dict(loaded["optimizer"])
    for _ in range(3):
        a.step(whole.closures())
        c.step(resumed.closures())
    assert identical(whole.params, resumed.params), "the resumed run is another run"
    same_state(a.state_dict(), c.state_dict())


def doors_agree(make):
    one, two, three = (Problem(dtype=torch.float32) for _ in range(3))
    a, b, c = (make(p.params) for p in (one, two, three))
    for _ in range(4):
        a.step(one.closures())
        for j in range(3):
            with b.sampled():
                two.closure(j)()
            with b.perturbed():
                two.closure(j)()
        b.step()
        for p in three.params:  # the habit of other SAMs: a backward before the step
            p.grad = torch.ones_like(p)
        c.step([with_zeroing(c, closure) for closure in three.closures()])
    assert identical(one.params, two.params)
    assert identical(one.params, three.params)


def several_dtypes_live_together(make):
    """Weights of every dtype move, and state is never narrower than float32."""
    dtypes = (torch.float64, torch.float32, torch.bfloat16)
    params = [torch.nn.Parameter(torch.ones(50, dtype=dtype)) for dtype in dtypes]
    optimizer = make(params)

    def closure():
        loss = sum((p.double() ** 2).sum() for p in params)
        loss.backward()
        return loss

    for _ in range(3):
        optimizer.step(closure)
    for p, dtype in zip(params, dtypes, strict=True):
        assert p.dtype == dtype
        assert (p != 1).all()
    reference_of_low = params[1].detach().double().mean()
    for p in params:
        assert abs(p.detach().double().mean() - reference_of_low) < 0.05


# ------------------------------------------------------------------ for BSAM alone


def equals_the_reference(make, order="precision_first", m=3, **options):
    problem = Problem(sub_batches=m)
    hyper = {"damping": 0.1, "s_init": 0.7, **HYPER, **options}
    optimizer = make(problem.params, **hyper, order=order)
    draws = []
    draw = optimizer.draw_noise

    def recording(params):
        draws.append(draw(params))
        return draws[-1]

    optimizer.draw_noise = recording
    tensors = [reference.tensor(w, **hyper) for w in problem.start]
    for _ in range(5):
        loss = optimizer.step(problem.closures())
        noise = [[n.numpy() for n in each] for each in draws[-m:]]
        expected = reference.bsam_step(tensors, noise, problem.gradient, order)
        np.testing.assert_allclose(loss.item(), expected, rtol=1e-12)
        for p, t in zip(problem.params, tensors, strict=True):
            np.testing.assert_allclose(p.detach().numpy(), t["w"], rtol=1e-12, atol=1e-12)
            np.testing.assert_allclose(optimizer.state[p]["s"].numpy(), t["s"], rtol=1e-12)


def equals_the_reference_with_the_mean_first(make):
    equals_the_reference(make, order="mean_first")


def noise_has_the_posterior_variance(make):
    """theta - omega has variance 1 / (N s), in the first step as in later ones."""
    p = torch.nn.Parameter(torch.zeros(200_000))
    optimizer = make([p], num_data=50.0, s_init=0.25, lr=0.0, betas=(0.9, 1.0))
    seen = []

    def closure():
        if optimizer.phase == "sampled":
            seen.append(p.detach().clone())
        p.grad = torch.ones_like(p)
        return 0.0

    for _ in range(2):
        optimizer.step([closure, closure])
    for theta in seen:
        # The variance of 200,000 squares has a relative standard error of sqrt(2 / 200,000).
        assert abs(theta.var().item() * 50 * 0.25 - 1) < 5 * (2 / 200_000) ** 0.5
    correlations = torch.corrcoef(torch.stack(seen)) - torch.eye(4)
    assert correlations.abs().max() < 5 / 200_000**0.5, "steps or sub-batches share their noise"


def s_has_its_fixed_point(make):
    """With constant |g|: sqrt(s) -> (|g| + sqrt(g^2 + 4 (delta + gamma))) / 2."""
    p = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
    optimizer = make([p], lr=0.0, betas=(0.9, 0.9), weight_decay=0.02, damping=0.3, num_data=10.0)

    def closure():
        p.grad = torch.tensor([3.0, -0.5], dtype=torch.float64)
        return 0.0

    for _ in range(1000):
        optimizer.step(closure)
    g = np.array([3.0, 0.5])
    expected = ((g + np.sqrt(g**2 + 4 * 0.32)) / 2) ** 2
    np.testing.assert_allclose(optimizer.state[p]["s"].numpy(), expected, rtol=1e-12)


def sub_batches_average_magnitudes(make):
    """Gradients +1 and -1 cancel in the mean but not in s."""
    p = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = make([p], lr=0.1, betas=(0.0, 0.5), weight_decay=0.0, damping=0.1, s_init=4.0)

    def closure(sign):
        def run():
            p.grad = torch.full_like(p, sign)
            return 0.0

        return run

    optimizer.step([closure(1.0), closure(-1.0)])
    assert p.item() == 0.0
    np.testing.assert_allclose(optimizer.state[p]["s"].item(), 0.5 * 4.0 + 0.5 * (2.0 + 0.1))


def reduces_to_sgd(make):
    """beta1 = 0, beta2 = 1, rho = 0, no noise, s = 1: SGD with weight decay."""
    model, other = mlp(torch.float64), mlp(torch.float64)
    x, y = batch(torch.float64)
    optimizer = make(
        list(model.parameters()),
        lr=0.3,
        num_data=float("inf"),
        rho=0.0,
        betas=(0.0, 1.0),
        weight_decay=0.01,
        s_init=1.0,
    )
    sgd = torch.optim.SGD(other.parameters(), lr=0.3, weight_decay=0.01)
    for _ in range(10):
        optimizer.step(closure_for(model, x, y))
        sgd.zero_grad()
        closure_for(other, x, y)()
        sgd.step()
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-13, atol=1e-13)


def s_stays_at_its_floor(make):
    """With zero gradients s comes to damping + weight_decay and stays there bit for bit."""
    p = torch.nn.Parameter(torch.zeros(10))
    floor = torch.tensor(0.003 + 0.11)
    for s_init in (0.003 + 0.11, 0.2):
        beta2 = 0.999 if s_init < 0.2 else 0.9
        options = {"weight_decay": 0.003, "damping": 0.11, "s_init": s_init}
        optimizer = make([p], betas=(0.9, beta2), **options)

        def closure():
            p.grad = torch.zeros_like(p)
            return 0.0

        for _ in range(500):
            optimizer.step(closure)
        s = optimizer.state[p]["s"]
        assert (s >= torch.nextafter(floor, torch.tensor(0.0))).all()
        assert (s <= floor * (1 + 1e-6)).all()


def noise_is_decided_by_requires_grad(make):
    """A parameter without gradient is sampled, a frozen one never, from the first step on."""
    used, unused, frozen = (torch.nn.Parameter(torch.zeros(4)) for _ in range(3))
    frozen.requires_grad_(False)
    optimizer = make([used, unused, frozen], lr=0.1)
    for _ in range(2):
        with optimizer.sampled():
            assert unused.abs().sum() > 0, "a parameter that requires a gradient got no noise"
            assert not frozen.any()
            used.grad = torch.ones_like(used)
        with optimizer.perturbed():
            used.grad = torch.ones_like(used)
        optimizer.step()
    assert not unused.any()
    assert not frozen.any()
    assert frozen not in optimizer.state
    state = optimizer.state[unused]
    assert state["step"] == 0
    assert not state["exp_avg"].any()


def state_is_wide_for_narrow_weights(make):
    """In bfloat16 1 - beta2 would be lost: s stays float32, also after a resume."""
    p = torch.nn.Parameter(torch.ones(10, dtype=torch.bfloat16))
    q = torch.nn.Parameter(torch.ones(10, dtype=torch.bfloat16))
    a, b = make([p]), make([q])

    def closure():
        p.grad = torch.ones_like(p)
        return 0.0

    a.step(closure)
    b.load_state_dict(a.state_dict())
    for optimizer, param in ((a, p), (b, q)):
        for name in ("exp_avg", "s"):
            assert optimizer.state[param][name].dtype == torch.float32
    assert torch.equal(a.state[p]["s"], b.state[q]["s"])


def messages_name_the_value(make):
    """An error shows the argument that is wrong, with the value that was given."""
    params = [torch.nn.Parameter(torch.zeros(1))]
    for option, value in (
        ("lr", -0.5),
        ("rho", -0.25),
        ("num_data", 0.0),
        ("weight_decay", -0.125),
        ("damping", -2.0),
        ("s_init", 0.0),
        ("betas", (1.5, 0.5)),
    ):
        with pytest.raises(ValueError, match=option) as error:
            make(params, **{option: value})
        shown = value[0] if isinstance(value, tuple) else value
        assert str(shown) in str(error.value)


# ------------------------------------------------------------------ helpers


def failing_at(number, closure):
    calls = itertools.count()

    def run():
        if next(calls) == number:
            raise KeyError
        return closure()

    return run


def with_zeroing(optimizer, closure):
    def run():
        optimizer.zero_grad()
        return closure()

    return run


def same_state(a, b):
    groups_a = [{k: v for k, v in g.items() if k != "lr"} for g in a["param_groups"]]
    groups_b = [{k: v for k, v in g.items() if k != "lr"} for g in b["param_groups"]]
    assert groups_a == groups_b
    assert a["state"].keys() == b["state"].keys()
    for number, state in a["state"].items():
        assert state.keys() == b["state"][number].keys()
        for name, value in state.items():
            other = b["state"][number][name]
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(other)), name


FOR_BOTH = (
    learning_rate_zero_moves_nothing,
    step_returns_the_mean_loss_at_the_perturbed_points,
    contexts_restore_the_mean_bit_for_bit,
    an_exception_in_a_closure_leaves_everything_as_it_was,
    resuming_is_exact,
    doors_agree,
    several_dtypes_live_together,
)
FOR_BSAM = (
    equals_the_reference,
    equals_the_reference_with_the_mean_first,
    noise_has_the_posterior_variance,
    s_has_its_fixed_point,
    sub_batches_average_magnitudes,
    reduces_to_sgd,
    s_stays_at_its_floor,
    noise_is_decided_by_requires_grad,
    state_is_wide_for_narrow_weights,
    messages_name_the_value,
)
