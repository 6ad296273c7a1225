"""GaussianPosterior: what it holds, its density, its draws, and what it does to a model."""

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scenarios import batch, closure_for, identical, mlp
from torch import nn
from torch.distributions import Normal, kl_divergence

import bsam
from bsam.noise import standard_normal

SHAPES = {"a": (3, 2), "b": (4,), "c": ()}


def trained(steps=5, num_data=20.0, **options):
    model, (x, y) = mlp(), batch()
    optimizer = bsam.BSAM(
        model.named_parameters(), lr=0.1, num_data=num_data, betas=(0.9, 0.9), seed=3, **options
    )
    for _ in range(steps):
        optimizer.step(closure_for(model, x, y))
    return model, optimizer


def given_posterior(seed=0, dtype=torch.float64, **prior):
    draw = torch.Generator().manual_seed(seed)
    mean = {n: torch.randn(s, generator=draw, dtype=dtype) for n, s in SHAPES.items()}
    precision = {n: torch.rand(s, generator=draw, dtype=dtype) + 0.5 for n, s in SHAPES.items()}
    return bsam.GaussianPosterior(mean, precision, **prior)


# ------------------------------------------------------------------ what it holds


def test_it_holds_copies_of_the_mean_and_of_num_data_times_s():
    model, optimizer = trained()
    posterior = optimizer.posterior(model)
    before = copy.deepcopy(posterior)
    for name, p in model.named_parameters():
        assert torch.equal(posterior.mean[name], p)
        assert torch.equal(posterior.precision[name], 20.0 * optimizer.state[p]["s"])
        torch.testing.assert_close(posterior.variance[name], 1 / (20.0 * optimizer.state[p]["s"]))
    assert (posterior.num_data, posterior.weight_decay) == (20.0, 1e-4)
    optimizer.step(closure_for(model, *batch()))
    assert identical(posterior.mean.values(), before.mean.values())
    assert identical(posterior.precision.values(), before.precision.values())


def test_groups_keep_their_own_settings():
    model = mlp()
    groups = [
        {"params": model[0].parameters(), "weight_decay": 0.5},
        {"params": model[2].parameters(), "num_data": 7.0, "weight_decay": 0.25},
    ]
    posterior = bsam.BSAM(groups, lr=0.1, num_data=30.0).posterior(model)
    assert posterior.precision["0.weight"].unique().tolist() == [30.0]
    assert posterior.precision["2.bias"].unique().tolist() == [7.0]
    assert posterior.num_data == {"0.weight": 30, "0.bias": 30, "2.weight": 7, "2.bias": 7}
    assert posterior.weight_decay["0.bias"] == 0.5
    first, second = (
        sum(
            kl_divergence(
                Normal(posterior.mean[n].double(), posterior.variance[n].double().sqrt()),
                Normal(0.0, prior**-0.5),
            ).sum()
            for n in posterior.mean
            if n.startswith(layer)
        )
        for layer, prior in (("0", 15.0), ("2", 1.75))
    )
    torch.testing.assert_close(posterior.kl_to_prior(), first + second)


def test_what_is_not_trained_is_fixed():
    model = mlp()
    model[0].weight.requires_grad_(False)
    optimizer = bsam.BSAM([model[0].weight, model[0].bias, model[2].weight], 0.1, num_data=5)
    posterior = optimizer.posterior(model)
    assert list(posterior.mean) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert list(posterior.precision) == ["0.bias", "2.weight"]
    draws = posterior.sample(3, seed=0)
    for name in ("0.weight", "2.bias"):
        assert all(torch.equal(row, posterior.mean[name]) for row in draws[name])
    assert repr(posterior) == "GaussianPosterior(4 parameters, 43 weights, 20 of them random)"


def test_a_module_of_the_model_has_its_part():
    model, optimizer = trained()
    part, whole = optimizer.posterior(model[2]), optimizer.posterior(model)
    assert torch.equal(part.precision["weight"], whole.precision["2.weight"])


def test_no_posterior_in_the_middle_of_a_step():
    model, optimizer = trained()
    with optimizer.sampled(), pytest.raises(RuntimeError, match=r"posterior\(\) inside `with opt"):
        optimizer.posterior(model)
    with pytest.raises(
        RuntimeError, match=r"diagnostics\(\) between sampled\(\) and perturbed\(\)"
    ):
        optimizer.diagnostics()


def test_what_has_no_posterior():
    model, optimizer = trained()
    with pytest.raises(TypeError, match="model=list: must be a module"):
        optimizer.posterior(list(model.parameters()))
    with pytest.raises(ValueError, match="trains none of its parameters: must be the module whose"):
        optimizer.posterior(copy.deepcopy(model))
    other, noiseless = trained(num_data=math.inf)
    with pytest.raises(ValueError, match="num_data=inf: must be finite for a posterior"):
        noiseless.posterior(other)
    with torch.no_grad():
        model[0].bias[0] = math.nan
    with pytest.raises(ValueError, match=r"mean: '0\.bias' has elements that are not finite"):
        optimizer.posterior(model)
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="and not frozen"):
        optimizer.posterior(model)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"mean": {"a": [1.0]}}, TypeError, "mean: 'a' is list: must be a tensor"),
        ({"precision": {}}, ValueError, "precision: is empty: must have at least one parameter"),
        ({"precision": {"d": torch.ones(1)}}, ValueError, "'d' is not in mean: must be one of 'a'"),
        (
            {"precision": {"b": torch.ones(3)}},
            ValueError,
            r"shape \(3,\): must be the mean's, \(4,",
        ),
        (
            {"precision": {"b": torch.zeros(4)}},
            ValueError,
            "'b' has elements that are not positive",
        ),
        ({"precision": {"b": torch.full((4,), math.inf)}}, ValueError, "not positive and finite"),
        ({"precision": {"b": torch.full((4,), math.nan)}}, ValueError, "not positive and finite"),
        ({"precision": {"b": torch.ones(4).half()}}, TypeError, "'b' is torch.float16: must be"),
        ({"num_data": 0}, ValueError, "num_data=0: must be greater than 0"),
        ({"num_data": "5"}, TypeError, "num_data='5': must be a real number, not str"),
        ({"weight_decay": -1}, ValueError, "weight_decay=-1: must be at least 0"),
        ({"weight_decay": {"a": 1.0}}, ValueError, "weight_decay: lacks 'b', 'c': must have each"),
    ],
)
def test_bad_arguments(change, error, message):
    posterior = given_posterior()
    arguments = {"mean": posterior.mean, "precision": posterior.precision} | change
    with pytest.raises(error, match=message):
        bsam.GaussianPosterior(**arguments)


# ------------------------------------------------------------------ the distribution


@given(
    seed=st.integers(0, 1000),
    num_data=st.floats(0.5, 1e6),
    weight_decay=st.floats(1e-6, 10.0),
)
def test_density_entropy_and_divergence_are_those_of_torch_distributions(
    seed, num_data, weight_decay
):
    posterior = given_posterior(seed, num_data=num_data, weight_decay=weight_decay)
    own = {n: Normal(m, posterior.precision[n] ** -0.5) for n, m in posterior.mean.items()}
    prior = Normal(torch.tensor(0.0, dtype=torch.float64), (num_data * weight_decay) ** -0.5)
    draws = posterior.sample(3, seed=seed)
    expected = sum(own[n].log_prob(draws[n]).reshape(3, -1).sum(1) for n in own)
    torch.testing.assert_close(posterior.log_prob(draws), expected, rtol=1e-10, atol=1e-10)
    entropy = sum(each.entropy().sum() for each in own.values())
    torch.testing.assert_close(posterior.entropy(), entropy, rtol=1e-10, atol=1e-10)
    divergence = sum(kl_divergence(each, prior).sum() for each in own.values())
    torch.testing.assert_close(posterior.kl_to_prior(), divergence, rtol=1e-10, atol=1e-10)


def test_log_prob_takes_one_set_of_weights_or_many():
    posterior = given_posterior()
    draws = posterior.sample(6, seed=1)
    table = {n: d.view(2, 3, *SHAPES[n]) for n, d in draws.items()}
    values = posterior.log_prob(table)
    assert values.shape == (2, 3)
    assert values.dtype == torch.float64
    one = posterior.log_prob({n: d[4] for n, d in draws.items()})
    assert one.shape == ()
    torch.testing.assert_close(values[1, 1], one)
    assert posterior.log_prob(posterior.mean) > one


def test_log_prob_of_other_shapes():
    posterior = given_posterior()
    with pytest.raises(ValueError, match="weights: lacks 'b': must hold 'a', 'b', 'c'"):
        posterior.log_prob({"a": posterior.mean["a"]})
    with pytest.raises(ValueError, match=r"'b' has shape \(5,\): must be \(\.\.\., 4\)"):
        posterior.log_prob(posterior.mean | {"b": torch.zeros(5)})
    with pytest.raises(ValueError, match=r"'b' has shape \(2, 4\)"):
        posterior.log_prob(posterior.mean | {"b": torch.zeros(2, 4)})


def test_there_is_no_divergence_from_a_prior_that_is_none():
    with pytest.raises(ValueError, match="num_data and weight_decay must be given"):
        given_posterior().kl_to_prior()
    flat = given_posterior(num_data=10, weight_decay={"a": 1.0, "b": 0.0, "c": 1.0})
    with pytest.raises(ValueError, match=r"weight_decay=0\.0 of 'b': must be positive"):
        flat.kl_to_prior()


def test_temperature_divides_precisions():
    posterior = given_posterior(num_data=10, weight_decay=0.1)
    hot = posterior.scaled(4.0)
    for name, precision in posterior.precision.items():
        assert torch.equal(hot.precision[name], precision / 4)
        assert torch.equal(hot.mean[name], posterior.mean[name])
    count = sum(p.numel() for p in posterior.precision.values())
    torch.testing.assert_close(
        hot.entropy().item(), posterior.entropy().item() + count * math.log(2)
    )
    assert (hot.num_data, hot.weight_decay) == (10, 0.1)
    for wrong in (0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match=r"temperature=.*: must be .*greater than 0"):
            posterior.scaled(wrong)
    for extreme in (1e-320, 1e308):
        with pytest.raises(ValueError, match=r"temperature=.*: must leave every precision"):
            given_posterior(dtype=torch.float32).scaled(extreme)


# ------------------------------------------------------------------ draws


def test_draws_have_the_moments_of_the_posterior():
    posterior = given_posterior()
    draws = posterior.sample(20_000, seed=5)
    for name, mean in posterior.mean.items():
        standard = (draws[name] - mean) * posterior.precision[name].sqrt()
        assert standard.mean(0).abs().max() < 5 / 20_000**0.5
        assert (standard.var(0) - 1).abs().max() < 5 * (2 / 20_000) ** 0.5
    flat = torch.cat([d.reshape(20_000, -1) for d in draws.values()], 1).T
    correlation = torch.corrcoef(flat) - torch.eye(len(flat))
    assert correlation.abs().max() < 5 / 20_000**0.5, "weights share their noise"


def test_a_seed_is_a_sequence_of_draws():
    posterior = given_posterior()
    many, few = posterior.sample(5, seed=2), posterior.sample(2, seed=2)
    for name in SHAPES:
        assert torch.equal(many[name][:2], few[name])
        assert torch.equal(many[name][3], posterior.draw(3, seed=2)[name])
        assert not torch.equal(many[name][0], posterior.draw(0, seed=3)[name])
    torch.manual_seed(0)
    first, second = (posterior.sample(1)["a"] for _ in range(2))
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    assert torch.equal(posterior.sample(1)["a"], first)


def test_draws_are_not_the_noise_of_training():
    p = nn.Parameter(torch.zeros(5000))
    holder = nn.ParameterList([p])
    optimizer = bsam.BSAM(holder.parameters(), 0.1, num_data=4.0, seed=9)
    posterior = optimizer.posterior(holder)
    for number in range(3):
        noise = standard_normal(0, 5000, seed=9, call=number, sub_batch=0)
        drawn = posterior.draw(number, seed=9)["0"]
        assert abs(torch.corrcoef(torch.stack([noise, drawn]))[0, 1]) < 0.08


def test_narrow_means_give_draws_of_their_dtype_and_wide_precision():
    model = nn.Linear(50, 50).to(torch.bfloat16)
    posterior = bsam.BSAM(model.parameters(), 0.1, num_data=4.0).posterior(model)
    assert posterior.precision["weight"].dtype == torch.float32
    draws = posterior.sample(2, seed=0)["weight"]
    assert draws.dtype == torch.bfloat16
    assert abs((draws - posterior.mean["weight"]).float().std() - 0.5) < 0.03
    with posterior.sampled(model, seed=0):
        assert torch.equal(model.weight, draws[0])


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"n": 0}, ValueError, "n=0: must be at least 1"),
        ({"n": 2.0}, TypeError, "n=2.0: must be an integer"),
        ({"n": 1, "seed": -1}, ValueError, "seed=-1: must be at least 0"),
        ({"n": 1, "seed": "x"}, TypeError, "seed='x': must be an integer"),
    ],
)
def test_bad_draws(wrong, error, message):
    with pytest.raises(error, match=message):
        given_posterior().sample(**wrong)


# ------------------------------------------------------------------ in a model


def with_buffers():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))
    model.register_buffer("not_kept", torch.arange(3.0), persistent=False)
    x, y = batch()
    optimizer = bsam.BSAM(model.named_parameters(), lr=0.1, num_data=20, seed=0)
    for _ in range(3):
        optimizer.step(closure_for(model, x, y))
    return model, optimizer.posterior(model)


def fresh_model():
    torch.manual_seed(77)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))


def tensors_of(model):
    return [*model.parameters(), *model.buffers()]


def test_sampled_moves_a_model_and_puts_everything_back():
    trained_model, posterior = with_buffers()
    assert list(posterior.buffers) == ["1.running_mean", "1.running_var", "1.num_batches_tracked"]
    model = fresh_model()
    before = [t.clone() for t in tensors_of(model)]
    places = [t.data_ptr() for t in tensors_of(model)]
    expected = posterior.draw(2, seed=4)
    with posterior.sampled(model, seed=4, number=2):
        assert all(torch.equal(p, expected[name]) for name, p in model.named_parameters())
        assert identical(model.buffers(), list(trained_model.buffers())[1:])
        assert model.training
        model(batch()[0])  # moves running statistics
    assert identical(tensors_of(model), before)
    assert [t.data_ptr() for t in tensors_of(model)] == places
    with pytest.raises(KeyError), posterior.sampled(model, seed=4):
        raise KeyError
    assert identical(tensors_of(model), before)
    assert not identical(tensors_of(model), tensors_of(trained_model)[: len(before)])


def test_sampled_without_a_seed_is_another_draw_each_time():
    model, posterior = with_buffers()
    seen = []
    for _ in range(2):
        with posterior.sampled(model):
            seen.append(model[0].weight.detach().clone())
    assert not torch.equal(*seen)


def test_statistics_that_the_posterior_does_not_hold_are_put_back_too():
    model, posterior = with_buffers()
    bare = bsam.GaussianPosterior(posterior.mean, posterior.precision)
    before = [b.clone() for b in model.buffers()]
    with bare.sampled(model, seed=0):
        model(batch()[0])
    assert identical(model.buffers(), before)


def test_buffers_under_a_wrapper_that_renames_its_state():
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    model = nn.Sequential(checkpoint_wrapper(fresh_model()[:2]), nn.Linear(6, 3))
    posterior = bsam.BSAM(model.parameters(), 0.1, num_data=5).posterior(model)
    assert "0.1.running_mean" in posterior.buffers


def test_an_expanded_buffer_is_a_constant():
    model = nn.Linear(2, 2)
    model.register_buffer("constant", torch.ones(1).expand(3))
    posterior = bsam.BSAM(model.parameters(), 0.1, num_data=5).posterior(model)
    with posterior.sampled(model, seed=0):
        assert model.constant.sum() == 3


def test_in_inference_mode_before_the_first_step():
    model, (x, y) = mlp(), batch()
    optimizer = bsam.BSAM(model.parameters(), 0.1, num_data=5)
    with torch.inference_mode():
        posterior = optimizer.posterior(model)
        optimizer.diagnostics()
        bsam.predict(model, posterior, x, 2)
    optimizer.step(closure_for(model, x, y))


def test_blocks_may_be_nested_and_gradients_flow():
    model, posterior = with_buffers()
    mean = [p.detach().clone() for p in model.parameters()]
    with posterior.sampled(model, seed=1):
        outer = model[0].weight.detach().clone()
        with posterior.sampled(model, seed=2):
            model(batch()[0]).sum().backward()
        assert torch.equal(model[0].weight, outer)
    assert model[0].weight.grad is not None
    assert identical(model.parameters(), mean)


def test_a_draw_reaches_a_forward_pass_under_autocast():
    model, posterior = with_buffers()
    x, outputs = batch()[0], []
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for seed in (1, 2):
            with posterior.sampled(model, seed=seed), torch.no_grad():
                outputs.append(model(x))
    assert not torch.equal(*outputs)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (nn.Linear(4, 3), "it lacks '0.weight'; lacks '0.bias'; lacks '1.weight' and 8 more"),
        (
            nn.Sequential(nn.Linear(4, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 3)),
            r"it has '0.weight' of shape \(7, 4\), not \(6, 4\)",
        ),
        (nn.Sequential(*fresh_model(), nn.Linear(3, 3)), "it has '4.weight' besides; has '4.bias'"),
    ],
)
def test_another_model_is_refused(model, words):
    _, posterior = with_buffers()
    before = [t.clone() for t in tensors_of(model)]
    message = f"model: is not the one of this posterior: {words}"
    with pytest.raises(ValueError, match=message), posterior.sampled(model, seed=0):
        pass
    assert identical(tensors_of(model), before)


def wrapped(model, how):
    if how == "compiled":
        return torch.compile(model, backend="eager")
    if how == "parallel":
        return nn.DataParallel(model)
    if how == "compiled inside parallel":
        return nn.DataParallel(torch.compile(model, backend="eager"))
    if how == "parallel inside compiled":
        return torch.compile(nn.DataParallel(model), backend="eager")
    model[0] = torch.compile(model[0], backend="eager")
    return model


WRAPPERS = (
    "compiled",
    "parallel",
    "compiled inside parallel",
    "parallel inside compiled",
    "one layer compiled",
)


@pytest.mark.filterwarnings("ignore:the model has running statistics")
@pytest.mark.parametrize("how", WRAPPERS)
def test_wrappers_do_not_matter(how):
    model, posterior = with_buffers()
    names = list(posterior.mean), list(posterior.precision), list(posterior.buffers)
    other = wrapped(fresh_model(), how)
    optimizer = bsam.BSAM(other.parameters(), 0.1, num_data=20)
    theirs = optimizer.posterior(other)
    assert (list(theirs.mean), list(theirs.precision), list(theirs.buffers)) == names
    before = [t.clone() for t in tensors_of(other)]
    x = batch()[0]
    expected = bsam.predict(model, posterior, x, 3).probs
    torch.testing.assert_close(bsam.predict(other, posterior, x, 3).probs, expected)
    assert identical(tensors_of(other), before)


def test_a_layer_that_is_called_module_keeps_its_name():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = nn.Linear(2, 2)

    model = Model()
    posterior = bsam.BSAM(model.parameters(), 0.1, num_data=2).posterior(model)
    assert list(posterior.mean) == ["module.weight", "module.bias"]


def test_tied_weights_are_one():
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    posterior = bsam.BSAM(model.parameters(), 0.1, num_data=2).posterior(model)
    assert list(posterior.mean) == ["0.weight"]
    x = torch.randn(2, 3)
    w = posterior.draw(0, seed=0)["0.weight"]
    with posterior.sampled(model, seed=0):
        torch.testing.assert_close(model(x), x @ w.T @ w.T)
    loop, vmap = (
        bsam.predict(model, posterior, x, 4, method=method).probs for method in ("loop", "vmap")
    )
    torch.testing.assert_close(loop, vmap, rtol=1e-5, atol=1e-6)


def test_to_gives_a_copy():
    _, posterior = with_buffers()
    other = posterior.to("cpu")
    other.mean["0.bias"].zero_()
    other.buffers["1.running_mean"].zero_()
    assert posterior.mean["0.bias"].abs().min() > 0
    assert posterior.buffers["1.running_mean"].abs().min() > 0


@pytest.mark.skipif(not torch.accelerator.is_available(), reason="no GPU here")
def test_a_posterior_on_the_cpu_serves_a_model_elsewhere():
    model, posterior = with_buffers()
    x = batch()[0]
    expected = bsam.predict(model, posterior, x, 4).probs
    device = torch.accelerator.current_accelerator()
    there = fresh_model().to(device)
    probs = bsam.predict(there, posterior, x.to(device), 4).probs
    torch.testing.assert_close(probs.cpu(), expected, rtol=1e-4, atol=1e-5)
