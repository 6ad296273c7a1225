"""What a step knows from the last one, and that nothing can change behind its back."""

import gc
import weakref

import paths
import pytest
import torch
from torch import nn

import bsam
from bsam import bundles, native, steps

SHAPES = ((3, 3), (5,), (4, 4), (), (2, 3))


def start(seed=0, **options):
    torch.manual_seed(seed)
    params = [nn.Parameter(torch.randn(shape)) for shape in SHAPES]
    groups = [{"params": params[:3], "lr": 0.1}, {"params": params[3:], "lr": 0.05}]
    return bsam.BSAM(groups, 0.1, num_data=20, seed=0, **options)


def everything(optimizer):
    return [p for group in optimizer.param_groups for p in group["params"]]


def closure_of(optimizer, meanwhile=lambda: None):
    def closure():
        params = [p for p in everything(optimizer) if p.requires_grad]
        loss = sum(((p.double() - 1.0) ** 2).sum() for p in params)
        loss.backward()
        meanwhile()
        return loss

    return closure


# ------------------------------------------------------------------ what may happen meanwhile


def other_memory(optimizer):
    for p in everything(optimizer):
        p.data = p.data.clone()


def turned_in_place(optimizer):
    """The same memory, read in another order."""
    p = everything(optimizer)[0]
    p.data = p.data.t()


def cut_in_place(optimizer):
    """The same address, fewer elements; state goes with it."""
    p = everything(optimizer)[1]
    p.data = p.data[:2]
    for name in ("exp_avg", "s"):
        if name in optimizer.state[p]:
            optimizer.state[p][name] = optimizer.state[p][name][:2]


def another_dtype(optimizer):
    for p in everything(optimizer):
        p.data = p.data.double()


def reshaped_in_place(optimizer):
    """The same memory and count, another shape; state goes with it, at its old place."""
    p = everything(optimizer)[4]
    p.data = p.data.view(3, 2)
    for name in ("exp_avg", "s"):
        if name in optimizer.state[p]:
            optimizer.state[p][name].data = optimizer.state[p][name].view(3, 2)


def state_narrowed(optimizer):
    """It is widened again: in bfloat16 s would hardly move."""
    for state in optimizer.state.values():
        state["s"].data = state["s"].bfloat16()


def group_exchanged_for_a_while(optimizer):
    """In the first pass another group stands there, in the second the old one again."""
    optimizer.param_groups[0], optimizer.other = (
        getattr(optimizer, "other", {**optimizer.param_groups[0], "lr": 0.9, "rho": 0.2}),
        optimizer.param_groups[0],
    )


def made_to_share_memory(optimizer):
    """Two parameters that were apart; their mean is set aside in another way."""
    one, other = everything(optimizer)[0], everything(optimizer)[2]
    one.data = other.data.view(-1)[:9].view(3, 3)


def frozen(optimizer):
    everything(optimizer)[2].requires_grad_(False)


def thawed(optimizer):
    everything(optimizer)[2].requires_grad_(True)


def state_replaced(optimizer):
    """The idiom of scripts that move an optimizer to a device."""
    for state in optimizer.state.values():
        for name, value in state.items():
            state[name] = 2.0 * value if name == "s" else value.clone()


def state_in_other_memory(optimizer):
    for state in optimizer.state.values():
        for name in ("exp_avg", "s"):
            state[name].data = 1.5 * state[name]


def state_changed_in_place(optimizer):
    for state in optimizer.state.values():
        state["s"].mul_(3.0)


def state_shared(optimizer):
    for state in optimizer.state.values():
        state["s"].share_memory_()


def state_cleared(optimizer):
    optimizer.state.clear()


def state_of_one_deleted(optimizer):
    del optimizer.state[everything(optimizer)[3]]


def state_of_one_exchanged(optimizer):
    p = everything(optimizer)[1]
    optimizer.state[p] = {name: value + 1.0 for name, value in optimizer.state[p].items()}


def loaded(optimizer):
    optimizer.load_state_dict(optimizer.state_dict())


def group_added(optimizer):
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(6))], "lr": 0.2})


def group_exchanged(optimizer):
    optimizer.param_groups[1] = {**optimizer.param_groups[1], "lr": 0.5}


def parameter_exchanged(optimizer):
    optimizer.param_groups[0]["params"][1] = nn.Parameter(torch.full((5,), 2.0))


def option_changed(optimizer):
    optimizer.param_groups[0]["rho"] = 0.5
    optimizer.param_groups[1]["betas"] = (0.5, 0.9)


def nothing(optimizer):
    pass


BETWEEN_STEPS = [
    nothing,
    other_memory,
    turned_in_place,
    cut_in_place,
    made_to_share_memory,
    reshaped_in_place,
    state_narrowed,
    another_dtype,
    frozen,
    state_replaced,
    state_in_other_memory,
    state_changed_in_place,
    state_shared,
    state_cleared,
    state_of_one_deleted,
    state_of_one_exchanged,
    loaded,
    group_added,
    group_exchanged,
    parameter_exchanged,
    option_changed,
]
WITHIN_A_PASS = [
    other_memory,
    state_in_other_memory,
    state_changed_in_place,
    state_shared,
    state_replaced,
    group_exchanged,
    group_exchanged_for_a_while,
]


def run(happening, within, sub_batches, path):
    """Return the weights and state after some steps, between or within which something happens."""
    optimizer = start(**path)
    torch.manual_seed(1)
    if within:
        passes = []

        def meanwhile():
            passes.append(0)
            third = 2 * sub_batches * 2 + 1  # the first pass of the third step
            if len(passes) == third:
                happening(optimizer)
            if len(passes) == third + 1 and happening is group_exchanged_for_a_while:
                happening(optimizer)
    else:
        meanwhile = int  # does nothing
    for step in range(5):
        optimizer.step([closure_of(optimizer, meanwhile)] * sub_batches)
        if step == 2 and not within:
            happening(optimizer)
        if step == 3 and happening is frozen:
            thawed(optimizer)
    params = everything(optimizer)
    state = [optimizer.state[p][name] for p in params for name in ("exp_avg", "s", "step")]
    return [t.detach().clone() for t in (*params, *state)]


def forget_everything(monkeypatch):
    """Have all be looked up and looked at each time it is needed."""
    forgetful = property(lambda _: None, lambda *_: None)
    monkeypatch.setattr(bundles, "look", lambda *_: None)
    monkeypatch.setattr(native.Seen, "look", forgetful)
    monkeypatch.setattr(
        bundles.Bundle, "states", lambda self, state, name: [state[p][name] for p in self]
    )
    monkeypatch.setattr(
        steps.LearnedVariances,
        "_bundles",
        lambda self, params: list(bundles.split(self.param_groups, params)),
    )


@pytest.mark.parametrize("sub_batches", [1, 3])
@pytest.mark.parametrize("path", ["loop", "native", "torch.compile"])
@pytest.mark.parametrize(
    ("happening", "within"),
    [(each, False) for each in BETWEEN_STEPS] + [(each, True) for each in WITHIN_A_PASS],
)
def test_a_step_that_knows_nothing_does_the_same(happening, within, path, sub_batches, monkeypatch):
    options = paths.options(path, monkeypatch)
    ours = run(happening, within, sub_batches, options)
    forget_everything(monkeypatch)
    theirs = run(happening, within, sub_batches, options)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a, b)
        assert a.isfinite().all()


@pytest.mark.parametrize("path", ["loop", "native", "torch.compile"])
def test_state_of_another_shape_is_an_error(path, monkeypatch):
    """Fewer elements at the same address: what lies behind them is not theirs."""
    optimizer = start(**paths.options(path, monkeypatch))
    optimizer.step(closure_of(optimizer))
    whole = everything(optimizer)[1].data
    everything(optimizer)[1].data = whole[:2]
    before = whole.clone()
    with pytest.raises(RuntimeError, match=r"size|shape|dimension"):
        optimizer.step(closure_of(optimizer))
    assert torch.equal(whole, before)


@pytest.mark.parametrize("path", ["loop", "native", "torch.compile"])
@pytest.mark.parametrize("name", ["exp_avg", "s"])
def test_state_cut_in_place_is_an_error(name, path, monkeypatch):
    optimizer = start(**paths.options(path, monkeypatch))
    optimizer.step(closure_of(optimizer))
    state = optimizer.state[everything(optimizer)[1]]
    whole = state[name].data
    state[name].data = whole[:2]
    before = whole.clone()
    with pytest.raises(RuntimeError, match=r"size|shape|dimension"):
        optimizer.step(closure_of(optimizer))
    assert torch.equal(whole[2:], before[2:])


@pytest.mark.parametrize("path", ["loop", "native"])  # torch.compile's see flat tensors alone
@pytest.mark.parametrize("shape", [(9,), (1, 3, 3)])
def test_after_a_reshape_the_mean_is_not_lost(shape, path, monkeypatch):
    """State of the old shape is an error; whatever is raised, weights come back."""
    optimizer = start(**paths.options(path, monkeypatch))
    optimizer.step(closure_of(optimizer))
    p = everything(optimizer)[0]
    p.data = p.data.view(shape)
    before = [each.detach().clone() for each in everything(optimizer)]
    with pytest.raises(RuntimeError):
        optimizer.step(closure_of(optimizer))
    for each, was in zip(everything(optimizer), before, strict=True):
        assert torch.equal(each, was)


@pytest.mark.parametrize("path", ["loop", "native", "torch.compile"])
def test_state_exchanged_between_the_contexts_is_used(path, monkeypatch):
    def run():
        optimizer = start(**options)
        for step in range(3):
            with optimizer.sampled():
                closure_of(optimizer)()
            if step == 1:
                state_replaced(optimizer)
            with optimizer.perturbed():
                closure_of(optimizer)()
            if step == 1:
                state_replaced(optimizer)
            optimizer.step()
        return [p.detach().clone() for p in everything(optimizer)]

    options = paths.options(path, monkeypatch)
    ours = run()
    forget_everything(monkeypatch)
    assert all(map(torch.equal, ours, run()))


@pytest.mark.parametrize("path", ["loop", "native", "torch.compile"])
def test_a_parameter_thawed_later_gets_its_state(path, monkeypatch):
    optimizer = start(**paths.options(path, monkeypatch))
    last = everything(optimizer)[-1].requires_grad_(False)
    optimizer.step(closure_of(optimizer))
    assert last not in optimizer.state
    last.requires_grad_(True)
    before = last.detach().clone()
    optimizer.step(closure_of(optimizer))
    assert optimizer.state[last]["step"] == 1.0
    assert not torch.equal(last, before)


# ------------------------------------------------------------------ what is known, and kept


def test_what_is_known_is_used_again():
    """Else the tests above compare nothing."""
    optimizer = start(foreach=False)
    optimizer.step(closure_of(optimizer))
    (before,) = optimizer._split.values()
    optimizer.step(closure_of(optimizer))
    (after,) = optimizer._split.values()
    assert before is after
    assert [len(bundle) for bundle in after] == [3, 2]


@pytest.mark.parametrize("path", ["loop", "native", "torch.compile"])
def test_many_groups_are_known_too(path, monkeypatch):
    params = [nn.Parameter(torch.randn(2)) for _ in range(20)]
    groups = [{"params": [p]} for p in params]
    optimizer = bsam.BSAM(groups, 0.1, num_data=5, seed=0, **paths.options(path, monkeypatch))
    seen = []
    for _ in range(2):
        optimizer.step(closure_of(optimizer))
        seen.append(list(optimizer._split.values()))
    assert len(seen[0]) == 1
    assert seen[0][0] is seen[1][0]


def test_choices_that_differ_in_each_step_are_not_kept_for_ever():
    torch.manual_seed(0)
    params = [nn.Parameter(torch.randn(2)) for _ in range(20)]
    optimizer = bsam.BSAM(params, 0.1, num_data=5, seed=0)
    for p in params:
        optimizer.step(lambda p=p: (p**2).sum().backward())
        assert len(optimizer._split) <= 8


@pytest.mark.parametrize("path", ["loop", "native", "torch.compile"])
def test_after_many_choices_state_deleted_is_made_anew(path, monkeypatch):
    """What is forgotten for want of room must not be taken for known."""
    options = paths.options(path, monkeypatch)
    for steps_before in range(1, 12):
        params = [nn.Parameter(torch.randn(2)) for _ in range(12)]
        optimizer = bsam.BSAM(params, 0.1, num_data=5, seed=0, **options)
        for p in params[:steps_before]:
            optimizer.step(lambda p=p: (p**2).sum().backward())
        del optimizer.state[params[-1]]
        optimizer.step(lambda p=params[0]: (p**2).sum().backward())
        assert "s" in optimizer.state[params[-1]]


def test_when_noise_fails_state_is_known_all_the_same():
    class Failing(bsam.BSAM):
        fails = True

        def draw_noise(self, params):
            if self.fails:
                raise ArithmeticError
            return super().draw_noise(params)

    p = nn.Parameter(torch.ones(3))
    optimizer = Failing([p], 0.1, num_data=5, seed=0)
    with pytest.raises(ArithmeticError):
        optimizer.step(lambda: (p**2).sum().backward())
    optimizer.state.clear()
    optimizer.fails = False
    optimizer.step(lambda: (p**2).sum().backward())
    assert "s" in optimizer.state[p]


@pytest.mark.parametrize("path", ["loop", "native", "torch.compile"])
def test_state_moved_elsewhere_between_steps_is_let_go(path, monkeypatch):
    """The memory is what whoever moves it wants."""
    optimizer = start(**paths.options(path, monkeypatch))
    optimizer.step(closure_of(optimizer))
    optimizer.step(closure_of(optimizer))
    gone = [weakref.ref(state[name]) for state in optimizer.state.values() for name in state]
    optimizer.state.clear()
    assert not any(each() is not None for each in gone)


def test_capturable_set_later_counts_in_a_tensor():
    optimizer = start(foreach=False)
    optimizer.step(closure_of(optimizer))
    for group in optimizer.param_groups:
        group["capturable"] = True
    optimizer.step(closure_of(optimizer))
    assert isinstance(optimizer.param_groups[0]["calls"], torch.Tensor)


def test_an_interrupted_start_is_made_good(monkeypatch):
    """What did not come about must not be taken as known."""
    optimizer = start(foreach=False)
    plain = type(optimizer)._create_state

    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(type(optimizer), "_create_state", interrupted)
    with pytest.raises(KeyboardInterrupt):
        optimizer.step(closure_of(optimizer))
    monkeypatch.setattr(type(optimizer), "_create_state", plain)
    optimizer.step(closure_of(optimizer))
    assert len(optimizer.state) == len(SHAPES)


def test_an_optimizer_and_its_weights_can_go():
    optimizer = start(foreach=False)
    optimizer.step(closure_of(optimizer))
    gone = weakref.ref(optimizer), weakref.ref(everything(optimizer)[0])
    gc.disable()
    try:
        del optimizer
        assert [each() for each in gone] == [None, None]
    finally:
        gc.enable()


def test_parameters_that_are_not_plain_are_never_taken_as_known():
    image = nn.Parameter(torch.zeros(1, 2, 3, 3).to(memory_format=torch.channels_last))
    assert bundles.look([{"params": [image]}]) is None
    plain = {"params": [nn.Parameter(torch.zeros(2))]}
    look = bundles.look([plain])
    assert look is not None
    assert bundles.look([plain], look) is look


def test_the_same_memory_read_as_another_dtype_is_noticed():
    half = nn.Parameter(torch.zeros(2, dtype=torch.float16))
    group = {"params": [half]}
    before = bundles.look([group])
    half.data = half.data.view(torch.bfloat16)
    assert bundles.look([group], before) is not before
