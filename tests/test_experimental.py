"""Steps with one gradient: the formulas, bSAM as a special case, every path, what is refused."""

import copy
import io

import numpy as np
import paths
import pytest
import reference
import torch
from scenarios import Problem, batch, closure_for, identical, mlp

import bsam
from bsam.experimental import OneGradientBSAM

HYPER = {"num_data": 20.0, "rho": 0.1, "betas": (0.8, 0.9), "weight_decay": 0.05, "damping": 0.1}
WAYS = {"loop": {"foreach": False}, "foreach": {"foreach": True}}


def make(params, lr=0.1, seed=0, **options):
    return OneGradientBSAM(params, lr, seed=seed, **{**HYPER, **options})


def two_passes(number, every, start):
    return every is not None and number >= start and number % every == 0


# ------------------------------------------------------------------ laws


def equals_the_reference(
    base, *, every=None, start=0, factor=1.0, m=3, order="precision_first", **way
):
    """Weights, momentum, s and the returned loss, over steps of either kind."""
    problem = Problem(sub_batches=m)
    hyper = {**HYPER, "lr": 0.1, "s_init": 0.7}
    asked = {"ascent_every": every, "ascent_start": start, "noise_factor": factor}
    optimizer = base(problem.params, **hyper, **asked, **way, order=order, seed=0)
    stream = bsam.BSAM(problem.params, **hyper, seed=0)
    tensors = [reference.tensor(w, **hyper) for w in problem.start]
    for number in range(7):
        noise = []
        for j in range(m):
            stream.param_groups[0]["calls"], stream._sub_batches = number, j
            stream._create_state()
            noise.append([n.double().numpy() for n in stream.draw_noise(problem.params)])
        loss = optimizer.step(problem.closures())
        one = not two_passes(number, every, start)
        expected = reference.bsam_step(
            tensors, noise, problem.gradient, order, one_gradient=one, noise_factor=factor
        )
        np.testing.assert_allclose(loss.item(), expected, rtol=1e-12)
        for p, t in zip(problem.params, tensors, strict=True):
            state = optimizer.state[p]
            for ours, theirs in ((p.detach(), "w"), (state["exp_avg"], "gm"), (state["s"], "s")):
                np.testing.assert_allclose(ours.numpy(), t[theirs], rtol=1e-12, atol=1e-12)


def closures_are_called_as_often_as_gradients_are_taken(base):
    for every, start in ((None, 0), (1, 0), (2, 0), (3, 0), (1, 4), (3, 5)):
        problem = Problem(sub_batches=2)
        optimizer = base(problem.params, 0.1, ascent_every=every, ascent_start=start, **HYPER)
        for number in range(9):
            seen = []

            def closure(seen=seen, problem=problem, optimizer=optimizer):
                seen.append(optimizer.phase)
                return problem.closure()()

            optimizer.step([closure, closure])
            kinds = ["sampled", "perturbed"] if two_passes(number, every, start) else ["sampled"]
            assert seen == 2 * kinds, f"step {number} of ascent_every={every}, start {start}"


def a_failing_closure_leaves_everything_as_it_was(base):
    problem = Problem(dtype=torch.float32)
    optimizer = base(problem.params, 0.1, **HYPER)
    optimizer.step(problem.closures())
    before = [p.detach().clone() for p in problem.params]
    state = copy.deepcopy(optimizer.state_dict())

    def failing():
        problem.closure()()
        raise KeyError

    def infinite():
        problem.params[0].grad = torch.full_like(problem.params[0], torch.inf)
        return 0.0

    for bad, error in ((failing, KeyError), (infinite, RuntimeError)):
        with pytest.raises(error):
            optimizer.step([problem.closure(), bad])
        assert identical(problem.params, before), "weights are not those before the step"
        assert optimizer.phase == "mean"
        for p, old in zip(problem.params, state["state"].values(), strict=True):
            new = optimizer.state[p]
            assert all(torch.equal(new[name], old[name]) for name in old)
        assert optimizer.param_groups[0]["calls"] == 1
    optimizer.step(problem.closures())
    assert not identical(problem.params, before)


# ------------------------------------------------------------------ the formulas


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("m", [1, 3])
@pytest.mark.parametrize(("every", "start"), [(None, 0), (1, 0), (2, 0), (3, 0), (1, 4), (2, 3)])
def test_it_equals_the_reference(every, start, m, way):
    equals_the_reference(OneGradientBSAM, every=every, start=start, m=m, **WAYS[way])


@pytest.mark.parametrize("order", ["precision_first", "mean_first"])
@pytest.mark.parametrize("every", [None, 2])
def test_it_equals_the_reference_with_wide_noise(order, every):
    equals_the_reference(OneGradientBSAM, every=every, factor=1.7, order=order)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("m", [1, 3])
def test_with_two_gradients_in_every_step_it_is_bsam(m, dtype):
    one, other = Problem(dtype=dtype), Problem(dtype=dtype)
    ours = make(one.params, ascent_every=1)
    theirs = bsam.BSAM(other.params, 0.1, seed=0, **HYPER)
    for _ in range(5):
        losses = ours.step(one.closures(m)), theirs.step(other.closures(m))
        assert torch.equal(*losses)
    assert identical(one.params, other.params)
    for p, q in zip(one.params, other.params, strict=True):
        assert all(
            torch.equal(ours.state[p][name], theirs.state[q][name]) for name in ours.state[p]
        )


@pytest.mark.parametrize("path", ["foreach", "native", "torch.compile"])
@pytest.mark.parametrize("every", [None, 2])
def test_every_path_gives_the_same(path, every, monkeypatch):
    way = paths.options(path, monkeypatch)
    shapes = ((100, 700), (33,), (), (0,))
    one, other = (Problem(shapes=shapes, dtype=torch.float32) for _ in range(2))
    a = make(one.params, foreach=False, ascent_every=every, noise_factor=1.3)
    b = make(other.params, **way, ascent_every=every, noise_factor=1.3)
    for _ in range(4):
        a.step(one.closures())
        b.step(other.closures())
    tolerance = 1e-5 if path in paths.COMPILED else 0.0
    for p, q in zip(one.params, other.params, strict=True):
        torch.testing.assert_close(p, q, rtol=tolerance, atol=tolerance)
        s, t = a.state[p]["s"], b.state[q]["s"]
        torch.testing.assert_close(s, t, rtol=tolerance, atol=tolerance)


def test_noise_is_as_wide_as_asked_for_and_the_posterior_is_not():
    def deviation(factors):
        model = torch.nn.ParameterList([torch.zeros(50), torch.zeros(7)])
        groups = [{"params": [p], "noise_factor": f} for p, f in zip(model, factors, strict=True)]
        optimizer, seen = make(groups, lr=0.0), []

        def closure():
            seen.extend(p.detach().clone() for p in model)
            for p in model:
                p.grad = torch.zeros_like(p)

        optimizer.step(closure)
        return seen, optimizer.posterior(model).variance

    (a, b), variance = deviation((1.0, 1.0))
    (wide_a, wide_b), same = deviation((2.0, 0.5))
    torch.testing.assert_close(wide_a, 2.0 * a, rtol=1e-6, atol=0.0)
    torch.testing.assert_close(wide_b, 0.5 * b, rtol=1e-6, atol=0.0)
    assert all(torch.equal(variance[name], same[name]) for name in variance)


def test_infinite_num_data_means_no_noise():
    problem, plain = Problem(sub_batches=1), Problem(sub_batches=1)
    make(problem.params, num_data=float("inf"), noise_factor=3.0).step(problem.closure())
    plain.closure()()
    for p, q in zip(problem.params, plain.params, strict=True):
        assert torch.equal(p.grad, q.grad)


def test_frozen_and_unused_parameters_stay():
    used, unused, frozen = (torch.nn.Parameter(torch.zeros(4)) for _ in range(3))
    frozen.requires_grad_(False)
    optimizer = make([used, unused, frozen])

    def closure():
        assert unused.abs().sum() > 0
        assert not frozen.any()
        used.grad = torch.ones_like(used)
        return 0.0

    optimizer.step([closure, closure])
    assert used.all()
    assert not unused.any()
    assert not frozen.any()
    assert frozen not in optimizer.state
    assert optimizer.state[unused]["step"] == 0


def test_a_gradient_missing_in_one_sub_batch_counts_as_zero_there():
    for present in ((1.0, None), (None, 1.0)):
        p, q = (torch.nn.Parameter(torch.zeros(1, dtype=torch.float64)) for _ in range(2))
        optimizer = make([p, q], betas=(0.0, 0.0), weight_decay=0.0, s_init=4.0)

        def closure(value, p=p, q=q):
            def run():
                p.grad = None if value is None else torch.full_like(p, value)
                q.grad = torch.ones_like(q)
                return 0.0

            return run

        optimizer.step([closure(value) for value in present])
        assert p.grad.item() == 0.5
        np.testing.assert_allclose(optimizer.state[p]["s"].item(), 2.0 * 0.5 + 0.1)
        np.testing.assert_allclose(optimizer.state[q]["s"].item(), 2.0 + 0.1)


def test_a_closure_that_leaves_no_gradient_is_pointed_out():
    p = torch.nn.Parameter(torch.zeros(1))
    with pytest.warns(UserWarning, match="the sampled pass left no gradient"):
        make([p]).step(lambda: 0.0)
    assert p.item() == 0.0


def test_gradients_of_the_user_are_not_changed():
    p = torch.nn.Parameter(torch.zeros(3))
    own = torch.tensor([1.0, -2.0, 3.0])
    optimizer = make([p])

    def closure():
        p.grad = own
        return 0.0

    for closures in (closure, [closure, closure]):
        optimizer.step(closures)
        assert own.tolist() == [1.0, -2.0, 3.0]


def test_it_learns():
    model, (x, y) = mlp(), batch()
    optimizer = make(model.parameters(), num_data=1e3, ascent_every=4)
    losses = [optimizer.step(closure_for(model, x, y)).item() for _ in range(60)]
    assert losses[-1] < 0.5 * losses[0]


# ------------------------------------------------------------------ faults


LAWS = {
    "reference": lambda base: equals_the_reference(base, every=2, factor=1.7),
    "calls": closures_are_called_as_often_as_gradients_are_taken,
    "exceptions": a_failing_closure_leaves_everything_as_it_was,
}


class NoNoise(OneGradientBSAM):
    """The single gradient is taken at the mean."""

    def _to_sample(self, params):  # noqa: ARG002
        self._create_state()


class VarianceForFactor(OneGradientBSAM):
    """noise_factor multiplies the variance."""

    def _num_data_of_noise(self, group):
        return group["num_data"] / group["noise_factor"]


class MagnitudeOfTheMean(OneGradientBSAM):
    """s learns from |mean g| instead of the mean of |g|."""

    def _update(self):
        for p, g in self._mean_gradients().items():
            self._scales[p] = self.state[p]["s"].sqrt() * g.abs()
        super()._update()


class LastSubBatchOnly(OneGradientBSAM):
    """The last sub-batch replaces the mean."""

    def _merge(self, gradients, share):  # noqa: ARG002
        super()._merge(gradients, 1.0)


class OneTooLate(OneGradientBSAM):
    """Counts steps from 1."""

    def _ascends(self):
        for group in self.param_groups:
            group["calls"] += 1
        due = super()._ascends()
        for group in self.param_groups:
            group["calls"] -= 1
        return due


class StaysPerturbed(OneGradientBSAM):
    """An exception leaves the weights where they were."""

    def _return_to_mean(self):
        self._aside.forget()


class CountsFailures(OneGradientBSAM):
    """A step that fails is counted."""

    def _pair(self, closure):
        try:
            return super()._pair(closure)
        except BaseException:
            for group in self.param_groups:
                group["calls"] += 1
            raise


FAULTS = {
    NoNoise: "reference",
    VarianceForFactor: "reference",
    MagnitudeOfTheMean: "reference",
    LastSubBatchOnly: "reference",
    OneTooLate: "calls",
    StaysPerturbed: "exceptions",
    CountsFailures: "exceptions",
}


@pytest.mark.parametrize("law", LAWS)
def test_it_keeps_the_laws(law):
    LAWS[law](OneGradientBSAM)


@pytest.mark.parametrize(("fault", "law"), FAULTS.items(), ids=lambda value: str(value))
def test_a_fault_breaks_a_law(fault, law):
    with pytest.raises(AssertionError):
        LAWS[law](fault)


# ------------------------------------------------------------------ state


@pytest.mark.parametrize("every", [None, 3])
def test_a_resumed_run_is_the_same_run(every):
    """Through a file that loads without running code, into one with other options."""
    whole, cut, resumed = (Problem(dtype=torch.float32) for _ in range(3))
    options = {"ascent_every": every, "ascent_start": 2 if every else 0, "noise_factor": 1.5}
    a, b, c = make(whole.params, **options), make(cut.params, **options), make(resumed.params)
    for _ in range(4):
        a.step(whole.closures())
        b.step(cut.closures())
    file = io.BytesIO()
    torch.save({"weights": [p.detach() for p in cut.params], "state": b.state_dict()}, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    with torch.no_grad():
        for p, w in zip(resumed.params, loaded["weights"], strict=True):
            p.copy_(w)
    c.load_state_dict(loaded["state"])
    assert all(c.param_groups[0][name] == value for name, value in options.items())
    for _ in range(4):
        a.step(whole.closures())
        c.step(resumed.closures())
    assert identical(whole.params, resumed.params)


def test_copies_and_new_groups_keep_the_options():
    p, q = (torch.nn.Parameter(torch.zeros(2)) for _ in range(2))
    optimizer = copy.deepcopy(make([p], ascent_every=3, ascent_start=2, noise_factor=1.5))
    optimizer.add_param_group({"params": [q], "noise_factor": 2.0})
    first, second = optimizer.param_groups
    assert (first["ascent_every"], first["ascent_start"], first["noise_factor"]) == (3, 2, 1.5)
    assert (second["ascent_every"], second["ascent_start"], second["noise_factor"]) == (3, 2, 2.0)


def test_states_of_bsam_and_states_with_bad_options_are_refused():
    p = torch.nn.Parameter(torch.zeros(2))
    optimizer = make([p])
    with pytest.raises(ValueError, match="lacks ascent_every, ascent_start, noise_factor"):
        optimizer.load_state_dict(bsam.BSAM([p], 0.1, num_data=1).state_dict())
    state = optimizer.state_dict()
    state["param_groups"][0]["noise_factor"] = -1.0
    with pytest.raises(ValueError, match=r"noise_factor=-1\.0: must be greater than 0"):
        optimizer.load_state_dict(state)


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize("every", [None, 1, 2])
@pytest.mark.parametrize("context", ["sampled", "perturbed"])
def test_contexts_are_refused(context, every):
    optimizer = make([torch.nn.Parameter(torch.zeros(1))], ascent_every=every)
    with (
        pytest.raises(
            RuntimeError, match=rf"{context}\(\): .* has no contexts.* use step\(closure"
        ),
        getattr(optimizer, context)(),
    ):
        pass
    assert optimizer.phase == "mean"


BAD = [
    ({"ascent_every": 0}, ValueError, "ascent_every=0: must be at least 1; None never perturbs"),
    ({"ascent_every": 2.0}, TypeError, r"ascent_every=2\.0: must be an integer, not float"),
    ({"ascent_every": True}, TypeError, "ascent_every=True: must be an integer, not bool"),
    ({"ascent_every": 1, "ascent_start": -1}, ValueError, "ascent_start=-1: must be at least 0"),
    ({"ascent_every": 1, "ascent_start": 0.5}, TypeError, r"ascent_start=0\.5: must be an integer"),
    ({"ascent_start": 3}, ValueError, "ascent_start=3: must be 0 where ascent_every=None.*=1"),
    ({"noise_factor": 0.0}, ValueError, r"noise_factor=0\.0: must be greater than 0 and finite"),
    ({"noise_factor": float("inf")}, ValueError, "noise_factor=inf: must be greater than 0"),
    ({"noise_factor": "2"}, TypeError, "noise_factor='2': must be a real number, not str"),
    ({"ascent_every": 2, "capturable": True}, ValueError, "capturable=True: must be False where"),
    ({"rho": -1.0}, ValueError, r"rho=-1\.0: must be at least 0"),
]


@pytest.mark.parametrize(("options", "error", "message"), BAD, ids=str)
def test_bad_options_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        make([torch.nn.Parameter(torch.zeros(1))], **options)


@pytest.mark.parametrize("name", ["ascent_every", "ascent_start"])
def test_groups_cannot_differ_in_the_kind_of_their_steps(name):
    p, q = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    with pytest.raises(
        ValueError, match=rf"{name}=4: must be that of the other.*\(parameter group"
    ):
        make([{"params": [p]}, {"params": [q], name: 4}], ascent_every=1)


def test_statistics_cannot_wait_for_a_pass_that_never_comes():
    model = torch.nn.BatchNorm1d(2)
    optimizer = make(model.parameters())
    with pytest.raises(ValueError, match="during='perturbed': must be 'both', 'sampled' or 'none'"):
        optimizer.update_statistics(model, during="perturbed")
    optimizer.update_statistics(model, during="sampled")
    make(model.parameters(), ascent_every=2).update_statistics(model, during="perturbed")


def test_gradients_outside_of_closures_are_refused():
    problem = Problem()
    optimizer = OneGradientBSAM(problem.params, 0.1, num_data=30)
    optimizer.step()  # as trainers do before anything is trained: it moves nothing
    problem.closure()()
    with pytest.raises(RuntimeError, match=r"by step\(closure\) or a list of closures alone"):
        optimizer.step()
