"""Running statistics: frozen, moved by the passes of a policy, made anew."""

import copy
import pickle

import pytest
import torch
from scenarios import identical
from torch import nn

import bsam
from bsam.normalization import POLICIES, frozen_statistics, refresh_statistics

LAYERS = {
    "batch 1d": (lambda: nn.BatchNorm1d(3), (8, 3)),
    "batch 2d": (lambda: nn.BatchNorm2d(3), (4, 3, 5, 5)),
    "batch 3d": (lambda: nn.BatchNorm3d(3), (4, 3, 2, 2, 2)),
    "cumulative": (lambda: nn.BatchNorm1d(3, momentum=None), (8, 3)),
    "sync": (lambda: nn.SyncBatchNorm(3), (4, 3, 5, 5)),
    "instance 1d": (lambda: nn.InstanceNorm1d(3, track_running_stats=True), (4, 3, 5)),
    "instance 2d": (lambda: nn.InstanceNorm2d(3, track_running_stats=True), (4, 3, 5, 5)),
    "without statistics": (lambda: nn.BatchNorm1d(3, track_running_stats=False), (8, 3)),
    "layer norm": (lambda: nn.LayerNorm(3), (8, 3)),
}
every_layer = pytest.mark.parametrize("kind", LAYERS)


def made(kind):
    torch.manual_seed(0)
    make, shape = LAYERS[kind]
    layer = make()
    x = torch.randn(shape) * 2 + 1
    layer(x)  # statistics that are not those of the start
    return layer, x


def statistics(model):
    return {name: b.clone() for name, b in model.named_buffers()}


def same(model, before):
    return identical(statistics(model).values(), before.values())


@every_layer
def test_frozen_statistics_do_not_move(kind):
    layer, x = made(kind)
    before = statistics(layer)
    places = [b.data_ptr() for b in layer.buffers()]
    expected = copy.deepcopy(layer)(x)
    with frozen_statistics(layer):
        assert torch.equal(layer(x), expected), "in training it normalizes by the batch as ever"
        with frozen_statistics(layer):
            layer(3 * x)
        layer(2 * x)
    assert same(layer, before)
    assert [b.data_ptr() for b in layer.buffers()] == places

    def failing():
        layer(x)
        raise KeyError

    with pytest.raises(KeyError), frozen_statistics(layer):
        failing()
    assert same(layer, before)
    layer(x)
    assert not before or not same(layer, before), "it moves again afterwards"


@every_layer
def test_frozen_in_evaluation_mode_changes_nothing(kind):
    layer, x = made(kind)
    layer.eval()
    expected = layer(x)
    with frozen_statistics(layer):
        assert torch.equal(layer(x), expected)
    assert not layer.training


@every_layer
def test_backward_may_come_after_the_block(kind):
    layer, x = made(kind)
    twin = copy.deepcopy(layer)
    x, y = x.clone().requires_grad_(), x.clone().requires_grad_()
    with frozen_statistics(layer):
        loss = layer(x).square().sum() + layer(x).sin().sum()
    loss.backward()
    (twin(y).square().sum() + twin(y).sin().sum()).backward()
    assert torch.equal(x.grad, y.grad)


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 6),
        nn.BatchNorm1d(6),
        nn.ReLU(),
        nn.Linear(6, 5),
        nn.BatchNorm1d(5, momentum=None),
    )


def bsam_over(model):
    return bsam.BSAM(model.parameters(), 0.1, num_data=5, seed=0)


def sam_over(model):
    return bsam.SAM(model.parameters(), torch.optim.SGD, rho=0.5, lr=0.1)


def closure_for(model, x):
    def closure():
        loss = model(x).exp().mean()
        loss.backward()
        return loss

    return closure


def with_closures(optimizer, closures):
    optimizer.step(closures)


def with_contexts(optimizer, closures):
    for closure in closures:
        with optimizer.sampled():
            closure()
        with optimizer.perturbed():
            closure()
    optimizer.step()


def inputs(seed):
    return torch.randn(16, 4, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("make", [bsam_over, sam_over])
@pytest.mark.parametrize("door", [with_closures, with_contexts])
@pytest.mark.parametrize("policy", POLICIES)
def test_only_the_passes_of_a_policy_move_statistics(make, door, policy):
    """As a by-hand replay of the step moves them, in the order in which the passes come."""
    model = network()
    optimizer = make(model)
    optimizer.update_statistics(model, during=policy)
    replay, seen = copy.deepcopy(model), []

    def watched(x):
        closure = closure_for(model, x)

        def run():
            if optimizer.phase in POLICIES[policy]:
                seen.append(([p.detach().clone() for p in model.parameters()], x))
            return closure()

        return run

    for step in range(3):
        door(optimizer, [watched(inputs(step)), watched(inputs(step + 10))])
    for weights, x in seen:
        with torch.no_grad():
            for p, w in zip(replay.parameters(), weights, strict=True):
                p.copy_(w)
            replay(x)
    assert len(seen) == 6 * len(POLICIES[policy])
    assert same(model, statistics(replay))
    assert int(model[1].num_batches_tracked) == len(seen)
    model(inputs(0))
    assert not same(model, statistics(replay)), "a pass outside of a step moves them as usual"


def test_policies_do_not_change_the_training():
    weights = []
    for policy in POLICIES:
        model = network()
        optimizer = bsam_over(model)
        optimizer.update_statistics(model, during=policy)
        for step in range(5):
            optimizer.step(closure_for(model, inputs(step)))
        weights.append(list(model.parameters()))
    assert all(identical(weights[0], each) for each in weights[1:])


def test_the_last_policy_counts_and_both_is_the_start():
    model, other = network(), network()
    a, b = bsam_over(model), bsam_over(other)
    for policy in ("none", "none", "sampled", "both"):
        a.update_statistics(model, during=policy)
    for step in range(2):
        a.step(closure_for(model, inputs(step)))
        b.step(closure_for(other, inputs(step)))
    assert same(model, statistics(other))


def test_a_policy_survives_copies_and_a_loaded_state():
    model = network()
    optimizer = bsam_over(model)
    optimizer.update_statistics(model, during="none")
    optimizer.step(closure_for(model, inputs(0)))
    optimizer.load_state_dict(optimizer.state_dict())
    twins = copy.deepcopy((model, optimizer)), pickle.loads(pickle.dumps((model, optimizer)))
    for each, its_optimizer in ((model, optimizer), *twins):
        its_optimizer.step(closure_for(each, inputs(1)))
        assert int(each[1].num_batches_tracked) == 0


def test_an_exception_in_a_pass_restores_statistics_too():
    model = network()
    optimizer = bsam_over(model)
    optimizer.update_statistics(model, during="sampled")
    with optimizer.sampled():
        closure_for(model, inputs(0))()
    before = statistics(model)
    closure_of_the_second_pass = closure_for(model, inputs(1))

    def failing():
        closure_of_the_second_pass()
        raise KeyError

    with pytest.raises(KeyError), optimizer.perturbed():
        failing()
    assert same(model, before)


def test_bad_policies():
    model = network()
    optimizer = bsam_over(model)
    with pytest.raises(ValueError, match="during='all': must be one of 'both', 'sampled', 'pert"):
        optimizer.update_statistics(model, during="all")
    with pytest.raises(TypeError, match="model=str: must be a module"):
        optimizer.update_statistics("none", during="none")
    with optimizer.sampled(), pytest.raises(RuntimeError, match=r"update_statistics\(\) inside"):
        optimizer.update_statistics(model, during="none")


# ------------------------------------------------------------------ made anew


@pytest.mark.parametrize("sizes", [(16, 16, 16), (20, 7, 1)])
def test_refreshed_statistics_are_those_of_the_batches(sizes):
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5)).double()
    batches = [inputs(i)[:1].repeat(1, 1) if n == 1 else inputs(i).repeat(2, 1)[:n]
               for i, n in enumerate(sizes)]  # fmt: skip
    batches = [b.double() for b in batches if len(b) > 1]
    model[1].running_var.fill_(float("nan"))
    modes = [m.training for m in model.modules()]
    refresh_statistics(model, iter(batches))
    hidden = [model[0](b).detach() for b in batches]
    share = [len(b) / sum(map(len, batches)) for b in batches]
    mean = sum(w * h.mean(0) for w, h in zip(share, hidden, strict=True))
    var = sum(w * h.var(0) for w, h in zip(share, hidden, strict=True))
    torch.testing.assert_close(model[1].running_mean, mean)
    torch.testing.assert_close(model[1].running_var, var)
    assert int(model[1].num_batches_tracked) == len(batches)
    assert model[1].momentum == 0.1
    assert [m.training for m in model.modules()] == modes
    once = statistics(model)
    refresh_statistics(model, batches)
    assert same(model, once), "twice is once"


def test_refresh_sees_the_network_without_dropout_and_loader_batches():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm1d(4))
    x = inputs(0)
    refresh_statistics(model, [(x, torch.zeros(16)), [x, None]])
    torch.testing.assert_close(model[1].running_mean, x.mean(0))
    refresh_statistics(model, [{"rows": 2 * x}], forward=lambda model, batch: model(batch["rows"]))
    torch.testing.assert_close(model[1].running_mean, 2 * x.mean(0))


def test_a_layer_that_is_called_twice_counts_both():
    layer = nn.BatchNorm1d(4)
    x = inputs(0)
    refresh_statistics(
        layer, [x, x + 1], forward=lambda layer, batch: layer(batch) - layer(3 * batch)
    )
    torch.testing.assert_close(layer.running_mean, 2 * (x.mean(0) + 0.5))
    refresh_statistics(layer, x)
    torch.testing.assert_close(layer.running_mean, x.mean(0))


def test_empty_batches_and_layers_without_a_momentum_are_passed_over():
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("running_mean", torch.ones(4))

        def forward(self, x):
            return x - self.running_mean

    model, x = nn.Sequential(Fixed(), nn.BatchNorm1d(4)), inputs(0)
    refresh_statistics(model, [x[:0], x])
    torch.testing.assert_close(model[1].running_mean, x.mean(0) - 1)
    assert torch.equal(model[0].running_mean, torch.ones(4))


def test_a_compiled_model_is_refreshed_as_it_is():
    model, x = network(), inputs(0)
    refresh_statistics(torch.compile(model, backend="eager", fullgraph=True), [x, x + 1])
    expected = network()
    refresh_statistics(expected, [x, x + 1])
    assert same(model, statistics(expected))


def test_a_policy_holds_for_the_model_and_its_wrapper():
    model = network()
    optimizer = bsam_over(model)
    optimizer.update_statistics(model, during="none")
    optimizer.update_statistics(torch.compile(model, backend="eager"), during="both")
    optimizer.step(closure_for(model, inputs(0)))
    assert int(model[1].num_batches_tracked) == 2


def test_a_layer_that_assigns_its_statistics_is_frozen_too():
    class Assigning(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("running_mean", torch.zeros(4))

        def forward(self, x):
            self.running_mean = 0.9 * self.running_mean + 0.1 * x.mean(0)
            return x - x.mean(0)

    layer = Assigning()
    mean = layer.running_mean
    with frozen_statistics(layer):
        layer(inputs(0))
    assert layer.running_mean is mean
    assert not mean.any()


def test_refresh_for_a_draw_lasts_as_long_as_the_draw():
    model = network()
    posterior = bsam_over(model).posterior(model)
    before = statistics(model)
    x = inputs(0)
    with posterior.sampled(model, seed=1):
        refresh_statistics(model, [x])
        torch.testing.assert_close(model[1].running_mean, model[0](x).detach().mean(0))
    assert same(model, before)


def test_a_refresh_that_fails_changes_nothing():
    model = network()
    model(inputs(0))
    before, momenta = statistics(model), [model[1].momentum, model[4].momentum]
    with pytest.raises(ValueError, match="batches: is empty: must hold at least one"):
        refresh_statistics(model, [])

    def failing():
        yield inputs(1)
        raise KeyError

    with pytest.raises(KeyError):
        refresh_statistics(model, failing())
    assert same(model, before)
    assert [model[1].momentum, model[4].momentum] == momenta
    assert model.training
