"""The three doors, what ``.grad`` means, and every misuse with its message."""

import copy
import gc
import pickle
import weakref

import pytest
import torch
from scenarios import Problem, batch, closure_for, identical, mlp

import bsam
from bsam import borrowing
from bsam.gradients import owned


def bsam_over(params, **options):
    return bsam.BSAM(params, lr=0.1, num_data=20, seed=0, **options)


def sam_over(params):
    return bsam.SAM(params, torch.optim.SGD, rho=0.1, lr=0.1, momentum=0.9)


both = pytest.mark.parametrize("make", [bsam_over, sam_over])


def pair(optimizer, closure):
    with optimizer.sampled():
        closure()
    with optimizer.perturbed():
        closure()


# ------------------------------------------------------------------ .grad


@both
def test_grad_is_set_aside_inside_and_back_outside(make):
    problem = Problem()
    optimizer = make(problem.params)
    mine = [torch.full_like(p, 7.0) for p in problem.params]
    for p, g in zip(problem.params, mine, strict=True):
        p.grad = g
    with optimizer.sampled():
        assert all(p.grad is None for p in problem.params)
        problem.closure()()
    assert all(p.grad is g for p, g in zip(problem.params, mine, strict=True))


@both
def test_grad_is_the_mean_of_the_second_gradients_so_far(make):
    problem = Problem()
    optimizer = make(problem.params)
    seconds = []
    for j in range(3):
        with optimizer.sampled():
            problem.closure(j)()
        with optimizer.perturbed():
            problem.closure(j)()
            seconds.append([p.grad.clone() for p in problem.params])
        for i, p in enumerate(problem.params):
            torch.testing.assert_close(p.grad, sum(s[i] for s in seconds) / len(seconds))


@both
def test_step_reads_grad_so_clipping_between_works(make):
    problem, other = Problem(), Problem()
    a, b = make(problem.params), make(other.params)
    pair(a, problem.closure())
    torch.nn.utils.clip_grad_norm_(problem.params, 1e-3)
    a.step()
    b.step(other.closure())
    assert not identical(problem.params, other.params)
    if make is sam_over:
        starts = [torch.tensor(w) for w in problem.start]
        moved = [(p.detach() - w) for p, w in zip(problem.params, starts, strict=True)]
        norm = torch.nn.utils.get_total_norm(moved)
        torch.testing.assert_close(norm.item(), 0.1 * 1e-3, rtol=1e-3, atol=0)


@both
@pytest.mark.parametrize("bucket", ["one for all", "one each"])
def test_gradients_in_buckets_survive_the_next_backward(make, bucket):
    """DDP keeps gradients as views into buckets that each backward overwrites."""
    problem, other = Problem(), Problem()
    a, b = make(problem.params), make(other.params)
    sizes = [p.numel() for p in problem.params]
    if bucket == "one for all":
        views = torch.zeros(sum(sizes), dtype=torch.float64).split(sizes)
    else:
        views = [torch.zeros(size, dtype=torch.float64) for size in sizes]

    def into_buckets(closure):
        def run():
            loss = closure()
            for p, view in zip(problem.params, views, strict=True):
                view.copy_(p.grad.flatten())
                p.grad = view.view_as(p)
            return loss

        return run

    a.step([into_buckets(c) for c in problem.closures()])
    b.step(other.closures())
    assert identical(problem.params, other.params)


@both
@pytest.mark.parametrize("loss_scale", [1.0, 2.0])
def test_gradients_that_a_user_sets_and_keeps_are_not_changed(make, loss_scale):
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = make([p])
    mine = [torch.full((3,), float(j + 1)) for j in range(6)]
    for j in range(3):
        with optimizer.sampled(loss_scale=loss_scale):
            p.grad = mine[2 * j]
        with optimizer.perturbed(loss_scale=loss_scale):
            p.grad = mine[2 * j + 1]
    torch.testing.assert_close(p.grad, torch.full((3,), 4.0 * loss_scale))
    optimizer.step()
    assert [g[0].item() for g in mine] == [1, 2, 3, 4, 5, 6]


@both
def test_a_gradient_that_a_user_puts_between_sub_batches_is_not_changed(make):
    """Though the means that it takes the place of are changed in place."""
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = make([p])

    def closure():
        p.grad = torch.ones(3)

    pair(optimizer, closure)
    pair(optimizer, closure)
    p.grad = mine = torch.full((3,), 4.0)
    pair(optimizer, closure)
    assert p.grad.tolist() == [3.0] * 3
    ours = p.grad
    pair(optimizer, closure)
    assert p.grad is ours
    assert ours.tolist() == [2.5] * 3
    assert mine.tolist() == [4.0] * 3


@both
def test_parameters_frozen_in_one_sub_batch_or_the_other(make):
    a, b = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    optimizer = make([a, b])

    def closure_over(p):
        def closure():
            p.grad = torch.ones(3)

        return closure

    for p, frozen in ((a, b), (b, a)):
        frozen.requires_grad_(False)
        pair(optimizer, closure_over(p))
        frozen.requires_grad_(True)
    optimizer.step()
    assert (a != 1).all()
    assert (b != 1).all()

    def freezing():
        closure_over(a)()
        a.requires_grad_(False)
        if optimizer.phase == "perturbed" and a.grad is None:
            raise ZeroDivisionError

    def failing():
        raise ZeroDivisionError

    a.requires_grad_(True)
    with pytest.raises(ZeroDivisionError):
        optimizer.step([closure_over(a), freezing, failing])
    assert a.grad is None


@both
def test_a_group_that_is_exchanged_before_the_step(make):
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = make([p])

    def closure():
        p.grad = torch.ones(3)

    pair(optimizer, closure)
    if make is sam_over:
        optimizer.param_groups[0]["lr"] = 0.0
    else:
        optimizer.param_groups[0] = {**optimizer.param_groups[0], "lr": 0.0}
    optimizer.step()
    assert (p == 1).all()


@both
def test_sub_batches_in_inference_mode_and_outside(make):
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = make([p])

    def closure():
        p.grad = torch.ones(3)

    with torch.inference_mode():
        for _ in range(2):
            pair(optimizer, closure)
    pair(optimizer, closure)
    assert p.grad.tolist() == [1.0] * 3
    optimizer.step()


@both
def test_a_parameter_without_gradient_in_one_sub_batch_counts_as_zero(make):
    left, right = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3))
    twin_l, twin_r = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3))
    a, b = make([left, right]), make([twin_l, twin_r])

    def closure(params, used):
        def run():
            loss = sum((p**2).sum() * (1.0 if i in used else 0.0) for i, p in enumerate(params))
            loss.backward()
            for i, p in enumerate(params):
                if i not in used and params[0] is left:
                    p.grad = None
            return loss

        return run

    for params, optimizer in (([left, right], a), ([twin_l, twin_r], b)):
        optimizer.step([closure(params, {0}), closure(params, {1}), closure(params, {0, 1})])
    assert identical([left, right], [twin_l, twin_r])


@both
def test_a_sub_batch_without_any_gradient_counts_as_zero_first_or_last(make):
    p, q = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))

    def closure(param, value):
        def run():
            if value is not None:
                param.grad = torch.full_like(param, value)

        return run

    for param, values in ((p, (None, 1.0)), (q, (1.0, None))):
        optimizer = make([param])
        for value in values:
            pair(optimizer, closure(param, value))
        assert param.grad[0] == 0.5
        with pytest.warns(UserWarning, match="left no gradient"):
            optimizer.step()
    if make is sam_over:
        assert identical([p], [q])


def test_a_second_gradient_without_a_first_leaves_s_to_decay():
    p = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
    other = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
    optimizer = bsam_over([p, other], betas=(0.0, 0.5), damping=0.25, weight_decay=0.0)
    with optimizer.sampled():
        other.grad = torch.ones_like(p)
    with optimizer.perturbed():
        p.grad, other.grad = torch.ones_like(p), torch.ones_like(p)
    optimizer.step()
    assert optimizer.state[p]["s"][0] == 0.5 * 1.0 + 0.5 * 0.25
    assert p[0] < 1


@both
def test_a_gradient_from_outside_takes_no_part(make):
    """Of a parameter that was frozen, or not there, while the passes were made."""
    used, thawed, late = (torch.nn.Parameter(torch.ones(2)) for _ in range(3))
    thawed.requires_grad_(False)
    optimizer = make([used, thawed])

    def closure():
        used.grad = torch.ones_like(used)

    pair(optimizer, closure)
    optimizer.add_param_group({"params": [late]})
    thawed.requires_grad_(True)
    for p in (thawed, late):
        p.grad = torch.full_like(p, 100.0)
    optimizer.step()
    assert (used != 1).all()
    assert (thawed == 1).all()
    assert (late == 1).all()


@both
def test_expanded_gradients(make):
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = make([p])

    def closure():
        p.grad = torch.ones(()).expand(3)

    pair(optimizer, closure)
    with optimizer.sampled(loss_scale=2):
        closure()
    with optimizer.perturbed(loss_scale=2):
        closure()
    assert p.grad.tolist() == [1.5] * 3
    optimizer.step()


@both
def test_after_a_closure_that_fails_there_is_no_gradient(make):
    problem = Problem()
    optimizer = make(problem.params)
    with pytest.raises(KeyError):
        optimizer.step([problem.closure(), lambda: {}["nothing"]])
    assert all(p.grad is None for p in problem.params)
    assert optimizer.step() is None


@both
def test_a_loss_tensor_that_is_used_again(make):
    p, static = torch.nn.Parameter(torch.ones(1)), torch.zeros(())

    def closure(value):
        def run():
            p.grad = torch.ones_like(p)
            return static.fill_(value)

        return run

    assert make([p]).step([closure(1.0), closure(3.0)]).item() == 2.0


@both
def test_zero_grad_outside_discards_what_was_recorded(make):
    problem = Problem()
    optimizer = make(problem.params)
    pair(optimizer, problem.closure(0))
    with optimizer.sampled():
        problem.closure(1)()
    optimizer.zero_grad()
    assert optimizer.step() is None
    assert identical(problem.params, [torch.tensor(w) for w in problem.start])
    pair(optimizer, problem.closure(2))
    optimizer.step()
    other = Problem()
    fresh = make(other.params)
    fresh.step(other.closure(2))
    assert identical(problem.params, other.params)


@both
def test_model_zero_grad_discards_it_too(make):
    problem, other = Problem(), Problem()
    optimizer, fresh = make(problem.params), make(other.params)
    pair(optimizer, problem.closure(0))
    for p in problem.params:
        p.grad = None
    pair(optimizer, problem.closure(2))
    optimizer.step()
    fresh.step(other.closure(2))
    assert identical(problem.params, other.params)


@both
def test_zero_grad_inside_clears_only_the_current_gradient(make):
    problem, other = Problem(), Problem()
    a, b = make(problem.params), make(other.params)
    pair(a, problem.closure(0))
    for context in (a.sampled, a.perturbed):
        with context():
            problem.closure(2)()
            a.zero_grad()
            problem.closure(1)()
    a.step()
    b.step([other.closure(0), other.closure(1)])
    assert identical(problem.params, other.params)


@both
def test_an_exception_discards_only_its_own_pair(make):
    problem, other = Problem(), Problem()
    a, b = make(problem.params), make(other.params)
    pair(a, problem.closure(0))
    for name in ("sampled", "perturbed"):
        with pytest.raises(KeyError):  # noqa: PT012
            with a.sampled():
                problem.closure(1)()
                if name == "sampled":
                    raise KeyError
            with a.perturbed():
                raise KeyError
    pair(a, problem.closure(1))
    a.step()
    b.step([other.closure(0), other.closure(1)])
    assert identical(problem.params, other.params)


def test_state_changes_only_inside_step():
    problem = Problem()
    optimizer = bsam_over(problem.params)
    optimizer.step(problem.closures())
    before = copy.deepcopy(optimizer.state_dict()["state"])
    for j in range(2):
        pair(optimizer, problem.closure(j))
    for number, state in optimizer.state_dict()["state"].items():
        assert all(torch.equal(value, before[number][name]) for name, value in state.items())


@both
def test_phase(make):
    problem = Problem()
    optimizer = make(problem.params)
    assert optimizer.phase == "mean"
    with optimizer.sampled():
        assert optimizer.phase == "sampled"
        problem.closure()()
    assert optimizer.phase == "mean"
    with optimizer.perturbed():
        assert optimizer.phase == "perturbed"
        problem.closure()()
    assert optimizer.phase == "mean"


# ------------------------------------------------------------------ step without closure


@both
def test_step_with_nothing_recorded_creates_state_and_changes_nothing(make):
    """As distributed checkpointing calls it: zero gradients, no closure."""
    problem = Problem()
    optimizer = make(problem.params)
    assert optimizer.step() is None
    for p in problem.params:
        p.grad = torch.zeros_like(p)
    assert optimizer.step(closure=None) is None
    assert identical(problem.params, [torch.tensor(w) for w in problem.start])
    for p in problem.params:
        assert optimizer.state[p]
    if make is bsam_over:
        assert optimizer.param_groups[0]["calls"] == 0
        assert all(optimizer.state[p]["step"] == 0 for p in problem.params)


@both
def test_distributed_checkpointing_without_a_process_group(make):
    from torch.distributed.checkpoint import state_dict as dcp

    torch.manual_seed(0)
    models = [torch.nn.Linear(3, 2) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    optimizers = [make(model.parameters()) for model in models]

    def closure(model):
        def run():
            loss = model(torch.ones(4, 3)).square().mean()
            loss.backward()
            return loss

        return run

    for _ in range(2):
        optimizers[0].step(closure(models[0]))
    optimizers[0].zero_grad()
    saved = copy.deepcopy(dcp.get_optimizer_state_dict(models[0], optimizers[0]))
    models[1].load_state_dict(models[0].state_dict())
    dcp.set_optimizer_state_dict(models[1], optimizers[1], saved)
    for model, optimizer in zip(models, optimizers, strict=True):
        optimizer.step(closure(model))
    assert identical(models[0].parameters(), models[1].parameters())


@both
def test_closures_without_gradients_are_harmless(make):
    params = [torch.randn(2, 3) for _ in range(2)]
    before = [p.clone() for p in params]
    optimizer = make(params)
    assert optimizer.step(lambda: torch.tensor([1.0])).shape == ()
    assert identical(params, before)


@both
@pytest.mark.parametrize("forgotten", [("sampled",), ("perturbed",), ("sampled", "perturbed")])
def test_a_forgotten_backward_is_pointed_out(make, forgotten):
    problem = Problem()
    optimizer = make(problem.params)

    def closure():
        if optimizer.phase not in forgotten:
            problem.closure()()

    pair(optimizer, closure)
    words = f"the {forgotten[-1]} pass left no gradient on any parameter, so it counts as zero: cal"
    with pytest.warns(UserWarning, match=words) as caught:
        optimizer.step()
    assert caught[0].filename == __file__, "the warning shows the user's line"
    with pytest.warns(UserWarning, match=words) as caught:
        optimizer.step(closure)
    assert caught[0].filename == __file__
    unchanged = identical(problem.params, [torch.tensor(w) for w in problem.start])
    assert unchanged == ((make is sam_over and "perturbed" in forgotten) or len(forgotten) == 2)
    optimizer.step(problem.closure())


@both
def test_what_closures_may_return(make):
    p = torch.nn.Parameter(torch.ones(1))

    def closure(value):
        def run():
            p.grad = torch.ones_like(p)
            return value

        return run

    assert make([p]).step(closure(None)) is None
    assert make([p]).step(closure(0.1)).item() == 0.1
    assert make([p]).step(closure(2)).item() == 2.0
    assert make([p]).step(closure(torch.tensor([3.0]))).item() == 3.0
    assert make([p]).step([closure(1.0), closure(2.0)]).item() == 1.5
    with pytest.raises(ValueError, match=r"loss of shape \(2,\): must be one number; return the"):
        make([p]).step(closure(torch.ones(2)))
    for value in ((1.0, 2.0), {"loss": 1.0}, "1"):
        with pytest.raises(TypeError, match=f"returned {type(value).__name__}: must be the loss"):
            make([p]).step(closure(value))


@both
def test_train_and_eval_are_harmless(make):
    problem, other = Problem(), Problem()
    a, b = make(problem.params), make(other.params)
    a.train()
    a.step(problem.closure())
    a.eval()
    b.step(other.closure())
    assert identical(problem.params, other.params)


@both
def test_schedulers_drive_the_learning_rate(make):
    problem = Problem()
    optimizer = make(problem.params)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.0)
    optimizer.step(problem.closure())
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.0
    frozen = [p.detach().clone() for p in problem.params]
    optimizer.step(problem.closure())
    assert identical(problem.params, frozen)


def test_one_cycle_moves_beta1_and_lr():
    problem = Problem()
    optimizer = bsam_over(problem.params)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.5, total_steps=10)
    before = dict(optimizer.param_groups[0])
    optimizer.step(problem.closure())
    scheduler.step()
    after = optimizer.param_groups[0]
    assert after["lr"] != before["lr"]
    assert after["betas"][0] != before["betas"][0]


def test_a_tensor_learning_rate_gives_the_same_numbers():
    problem, other = Problem(), Problem()
    a = bsam.BSAM(problem.params, lr=torch.tensor(0.1, dtype=torch.float64), num_data=9, seed=0)
    b = bsam.BSAM(other.params, lr=0.1, num_data=9, seed=0)
    a.step(problem.closures())
    b.step(other.closures())
    assert identical(problem.params, other.params)


@both
def test_autocast_around_the_step_is_autocast_inside(make):
    """Its cache of cast weights must not outlive a move of the weights."""
    x, y = batch()
    bf16 = {"device_type": "cpu", "dtype": torch.bfloat16}
    inside, outside, contexts = (mlp() for _ in range(3))
    a, b, c = (make(model.parameters()) for model in (inside, outside, contexts))

    def autocast(closure):
        def run():
            with torch.autocast(**bf16):
                return closure()

        return run

    for _ in range(3):
        a.step(autocast(closure_for(inside, x, y)))
    with torch.autocast(**bf16):
        for _ in range(3):
            b.step(closure_for(outside, x, y))
            pair(c, closure_for(contexts, x, y))
            c.step()
    assert identical(inside.parameters(), outside.parameters())
    assert identical(inside.parameters(), contexts.parameters())


# ------------------------------------------------------------------ misuse


@both
def test_nesting(make):
    problem = Problem()
    optimizer = make(problem.params)
    for outer in ("sampled", "perturbed"):
        with getattr(optimizer, outer)():
            for call in (
                lambda: optimizer.sampled().__enter__(),
                lambda: optimizer.perturbed().__enter__(),
                optimizer.step,
                lambda: optimizer.step(problem.closure()),
                optimizer.state_dict,
                lambda: optimizer.load_state_dict({}),
                lambda: optimizer.add_param_group({"params": []}),
                lambda: pickle.dumps(optimizer),
                lambda: copy.deepcopy(optimizer),
            ):
                with pytest.raises(
                    RuntimeError, match=rf"inside `with optimizer.{outer}\(\)`: leave"
                ):
                    call()
            problem.closure()()
    optimizer.step()


@both
def test_between_the_two_contexts(make):
    problem = Problem()
    optimizer = make(problem.params)
    with optimizer.sampled():
        problem.closure()()
    for call in (
        optimizer.step,
        lambda: optimizer.step(problem.closure()),
        optimizer.state_dict,
        lambda: copy.deepcopy(optimizer),
    ):
        with pytest.raises(RuntimeError, match=r"between sampled\(\) and perturbed\(\): finish"):
            call()
    with pytest.raises(RuntimeError, match=r"sampled\(\) came twice without perturbed\(\) between"):
        optimizer.sampled().__enter__()
    with optimizer.perturbed():
        problem.closure()()
    optimizer.step()


@both
def test_perturbed_before_sampled(make):
    problem = Problem()
    optimizer = make(problem.params)
    words = (
        r"perturbed\(\) came before sampled\(\), or after a zero_grad\(\) that discarded it: tak"
    )
    with pytest.raises(RuntimeError, match=words):
        optimizer.perturbed().__enter__()
    with optimizer.sampled():
        problem.closure()()
    optimizer.zero_grad()
    with pytest.raises(RuntimeError, match=words):
        optimizer.perturbed().__enter__()


@both
def test_closure_while_pairs_are_recorded(make):
    problem = Problem()
    optimizer = make(problem.params)
    pair(optimizer, problem.closure())
    with pytest.raises(
        RuntimeError, match=r"call step\(\) to use them or zero_grad\(\) to discard"
    ):
        optimizer.step(problem.closure())
    optimizer.step()


@both
def test_gradients_that_no_context_recorded(make):
    problem = Problem()
    named = [(f"layer{i}", p) for i, p in enumerate(problem.params)]
    optimizer = make(named)
    problem.params[1].grad = torch.ones_like(problem.params[1])
    with pytest.raises(
        RuntimeError, match=r"\(parameter 'layer1'\). Three ways in: step\(closure\)"
    ):
        optimizer.step()


@both
def test_what_is_not_a_closure(make):
    problem = Problem()
    optimizer = make(problem.params)
    with pytest.raises(TypeError, match="closure=3: must be callable; pass a function"):
        optimizer.step(3)
    with pytest.raises(TypeError, match="closure=None in the list: must be callable"):
        optimizer.step([problem.closure(), None])
    with pytest.raises(TypeError, match=r"pass the function itself, step\(closure\), not what it"):
        optimizer.step(torch.tensor(1.0))
    with pytest.raises(ValueError, match="must hold at least one function"):
        optimizer.step([])
    assert identical(problem.params, [torch.tensor(w) for w in problem.start])


@pytest.mark.parametrize("context", ["sampled", "perturbed"])
@pytest.mark.parametrize(
    ("factors", "error", "message"),
    [
        ({"weight": 0}, ValueError, "weight=0: must be greater than 0 and finite; pass the sub-b"),
        ({"weight": float("inf")}, ValueError, "weight=inf: must be greater than 0 and finite"),
        ({"weight": "2"}, TypeError, "weight='2': must be a real number, not str"),
        ({"loss_scale": -1.0}, ValueError, "loss_scale=-1.0: must be greater than 0 and finite"),
        ({"loss_scale": None}, TypeError, "loss_scale=None: must be a real number"),
    ],
)
def test_factors_of_a_sub_batch(context, factors, error, message):
    problem = Problem()
    optimizer = bsam_over(problem.params)
    if context == "perturbed":
        with optimizer.sampled():
            problem.closure()()
    with pytest.raises(error, match=message):
        getattr(optimizer, context)(**factors).__enter__()
    assert optimizer.phase == "mean"


def test_weights_of_the_two_passes_must_agree():
    problem = Problem()
    optimizer = bsam_over(problem.params)
    with optimizer.sampled(weight=2):
        problem.closure()()
    with pytest.raises(ValueError, match=r"weight=3: must be that of sampled\(\), 2"):
        optimizer.perturbed(weight=3).__enter__()


# ------------------------------------------------------------------ gradients that are not numbers


@both
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", ["sampled", "perturbed"])
def test_a_gradient_that_is_not_finite(make, where, bad):
    problem = Problem()
    named = [(f"layer{i}", p) for i, p in enumerate(problem.params)]
    optimizer = make(named)
    optimizer.step(problem.closures())
    mean = [p.detach().clone() for p in problem.params]
    state = copy.deepcopy(optimizer.state_dict())

    def closure():
        loss = problem.closure()()
        if optimizer.phase == where:
            problem.params[1].grad[0] = bad
            problem.params[2].grad.fill_(bad)
        return loss

    words = rf"the {where} pass gave a non-finite gradient: parameter 'layer1', 1 of 2 elements"
    with pytest.raises(RuntimeError, match=words):
        optimizer.step([problem.closure(), closure])
    assert identical(problem.params, mean)
    for number, each in optimizer.state_dict()["state"].items():
        assert all(torch.equal(v, state["state"][number][k]) for k, v in each.items())
    assert optimizer.state_dict()["param_groups"] == state["param_groups"]
    optimizer.step(problem.closure())


@both
def test_a_gradient_spoiled_between_perturbed_and_step(make):
    problem = Problem()
    optimizer = make(problem.params)
    pair(optimizer, problem.closure())
    problem.params[0].grad[0, 0] = float("nan")
    words = (
        r"perturbed pass gave a non-finite gradient: parameter 0 of group 0, shape \(3, 2\), 1 of 6"
    )
    with pytest.raises(RuntimeError, match=words):
        optimizer.step()
    assert identical(problem.params, [torch.tensor(w) for w in problem.start])
    pair(optimizer, problem.closure())
    optimizer.step()


@both
def test_huge_finite_gradients_are_not_refused(make):
    """Their 2-norm overflows float32; they do not."""
    p = torch.nn.Parameter(torch.zeros(2))
    optimizer = make([p])

    def closure():
        p.grad = torch.full_like(p, 1e30)
        return 0.0

    with optimizer.sampled():
        closure()


@both
def test_sparse_gradients(make):
    embedding = torch.nn.Embedding(5, 2, sparse=True)
    optimizer = make(embedding.named_parameters())
    mean = embedding.weight.detach().clone()
    with (
        pytest.raises(
            RuntimeError, match=r"parameter 'weight' has a sparse gradient .*without spars"
        ),
        optimizer.sampled(),
    ):
        embedding(torch.tensor([1])).sum().backward()
    assert torch.equal(embedding.weight, mean)


def test_an_optimizer_is_freed_with_its_last_name():
    """No cycle holds it, its state and the model until the garbage collector comes by."""
    problem = Problem()
    optimizer = bsam.BSAM(problem.params, 0.1, num_data=30)
    optimizer.step(problem.closure())
    gone = weakref.ref(optimizer)
    gc.disable()
    try:
        del optimizer
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("context", ["sampled", "perturbed"])
def test_ctrl_c_while_weights_are_put_back(context, monkeypatch):
    """It comes through, and the weights are the mean."""
    problem = Problem()
    optimizer = bsam.BSAM(problem.params, 0.1, num_data=30)
    before = [p.detach().clone() for p in problem.params]
    put_back, calls = borrowing.Aside._put_back, []

    def interrupted(self, without):
        calls.append(1)
        if len(calls) == at:
            raise KeyboardInterrupt
        put_back(self, without)

    at = 1 if context == "sampled" else 3  # the second pass looks for what got no gradient, too
    monkeypatch.setattr(borrowing.Aside, "_put_back", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pair(optimizer, problem.closure())
    assert optimizer.phase == "mean"
    assert all(torch.equal(p, b) for p, b in zip(problem.params, before, strict=True))


@pytest.mark.parametrize("door", ["closure", "contexts"])
def test_a_gradient_that_is_the_weight_itself(door):
    """As a backward pass that hands on a saved weight leaves it: it must not move with it."""
    runs = []
    for copied in (False, True):
        p = torch.nn.Parameter(torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64))
        optimizer = bsam.BSAM([p], 0.1, num_data=30, rho=0.1, seed=1)

        def closure(p=p, copied=copied):
            p.grad = p.detach().clone() if copied else p.detach()

        if door == "closure":
            optimizer.step(closure)
        else:
            with optimizer.sampled():
                closure()
            with optimizer.perturbed():
                closure()
            optimizer.step()
        runs.append(p.detach())
    assert torch.equal(*runs)


def test_memory_that_only_a_storage_names_is_not_kept():
    """A closure may write into it again."""
    p = torch.nn.Parameter(torch.zeros(3))
    p.grad = torch.ones(3)
    storage = p.grad.untyped_storage()
    assert not owned(p.grad.detach())
    del storage
    gradient, p.grad = p.grad.detach(), None
    assert owned(gradient)
