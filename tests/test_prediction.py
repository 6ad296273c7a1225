"""predict against plain loops and known cases; the decomposition; memory; misuse."""

import math
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scenarios import allocated, identical, mlp
from torch import nn

import bsam
from bsam import GaussianPosterior, predict


def posterior_of(model, num_data=5.0, s_init=1.0):
    return bsam.BSAM(model.parameters(), 0.1, num_data=num_data, s_init=s_init).posterior(model)


def inputs(rows=12, columns=4, seed=0):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def by_hand(model, posterior, x, num_samples, seed):
    """The outputs of every draw, shape (samples, n, ...), float64, in eval mode, without bsam."""
    outputs = []
    for number in range(num_samples):
        weights = {n: w[number] for n, w in posterior.sample(num_samples, seed=seed).items()}
        outputs.append(torch.func.functional_call(model.eval(), weights, (x,)))
    model.train()
    return torch.stack(outputs).detach().double()


def entropy(p):
    return -(p * np.log(p)).sum(-1)


# ------------------------------------------------------------------ right


@pytest.mark.parametrize("method", ["loop", "vmap"])
@pytest.mark.parametrize("num_samples", [1, 3, 8, 19])
def test_categorical_equals_the_plain_loop(method, num_samples):
    model, x = mlp(torch.float64), inputs().double()
    posterior = posterior_of(model)
    each = by_hand(model, posterior, x, num_samples, seed=4).softmax(-1).numpy()
    predictive = predict(model, posterior, x, num_samples, seed=4, method=method)
    probs = each.mean(0)
    np.testing.assert_allclose(predictive.probs, probs, rtol=1e-13)
    np.testing.assert_allclose(predictive.log_probs, np.log(probs), rtol=1e-12)
    np.testing.assert_allclose(predictive.entropy, entropy(probs), rtol=1e-12)
    np.testing.assert_allclose(predictive.expected_entropy, entropy(each).mean(0), rtol=1e-12)
    information = entropy(probs) - entropy(each).mean(0)
    np.testing.assert_allclose(predictive.mutual_information, information, atol=1e-13)
    for field in (predictive.probs, predictive.entropy, predictive.mutual_information):
        assert field.dtype == torch.float64
        assert not field.requires_grad


@pytest.mark.parametrize("method", ["loop", "vmap"])
@pytest.mark.parametrize("columns", [None, 1, 2])
def test_bernoulli_is_categorical_with_two_classes(method, columns):
    model = nn.Linear(4, columns or 1).double()
    head = nn.Sequential(model, nn.Flatten(0)) if columns is None else nn.Sequential(model)
    x = inputs().double()
    posterior = posterior_of(head)
    predictive = predict(head, posterior, x, 5, likelihood="bernoulli", method=method)
    logits = by_hand(head, posterior, x, 5, seed=0)
    assert predictive.probs.shape == logits.shape[1:]
    p = torch.stack([1 - logits.sigmoid(), logits.sigmoid()], -1).numpy()
    np.testing.assert_allclose(predictive.probs, p.mean(0)[..., 1], rtol=1e-12)
    np.testing.assert_allclose(predictive.log_probs, np.log(p.mean(0)[..., 1]), rtol=1e-11)
    np.testing.assert_allclose(predictive.entropy, entropy(p.mean(0)), rtol=1e-11)
    np.testing.assert_allclose(predictive.expected_entropy, entropy(p).mean(0), rtol=1e-11)


@pytest.mark.parametrize("method", ["loop", "vmap"])
def test_gaussian_adds_noise_and_spread(method):
    model, x = nn.Linear(4, 2).double(), inputs().double()
    posterior = posterior_of(model)
    noise = torch.tensor([0.5, 2.0], dtype=torch.float64)
    predictive = predict(
        model, posterior, x, 6, likelihood="gaussian", noise_variance=noise, method=method
    )
    means = by_hand(model, posterior, x, 6, seed=0)
    torch.testing.assert_close(predictive.mean, means.mean(0))
    torch.testing.assert_close(predictive.epistemic_variance, means.var(0, correction=0))
    torch.testing.assert_close(predictive.aleatoric_variance, noise.expand(12, 2))
    torch.testing.assert_close(predictive.variance, means.var(0, correction=0) + noise)


def test_bayesian_linear_regression_in_closed_form():
    """With many samples: mean x w, variance noise + sum x^2 / precision."""
    model, x = nn.Linear(4, 1, bias=False).double(), inputs().double()
    precision = {"weight": torch.tensor([[1.0, 2.0, 4.0, 8.0]], dtype=torch.float64)}
    posterior = GaussianPosterior(dict(model.named_parameters()), precision)
    settings = {"likelihood": "gaussian", "noise_variance": 0.3, "method": "vmap"}
    predictive = predict(model, posterior, x, 40_000, **settings)
    exact = (x**2 / precision["weight"]).sum(1, keepdim=True)
    standard_error = (exact / 40_000).sqrt()
    assert ((predictive.mean - model(x)).abs() < 5 * standard_error).all()
    torch.testing.assert_close(predictive.epistemic_variance, exact, rtol=0.05, atol=0)


def test_a_model_may_give_its_own_variance():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 2)

        def forward(self, x):
            mean, raw = self.linear(x).unbind(-1)
            return mean, raw.exp()

    model, x = Model(), inputs()
    posterior = posterior_of(model)
    loop, vmap = (
        predict(model, posterior, x, 10, likelihood="gaussian", method=method)
        for method in ("loop", "vmap")
    )
    torch.testing.assert_close(loop.variance, vmap.variance, rtol=1e-5, atol=1e-6)
    total = loop.aleatoric_variance + loop.epistemic_variance
    torch.testing.assert_close(loop.variance, total)
    assert loop.aleatoric_variance.std() > 0


def test_no_samples_is_the_mean():
    model, x = mlp(torch.float64), inputs().double()
    posterior = posterior_of(model)
    expected = model(x).softmax(-1)
    for method in ("loop", "vmap"):
        predictive = predict(model, posterior, x, num_samples=0, method=method)
        torch.testing.assert_close(predictive.probs, expected, rtol=1e-14, atol=0)
        assert not predictive.mutual_information.any(), "one draw cannot disagree"
    for p in model.parameters():
        p.data.zero_()
    assert torch.equal(predict(model, posterior, x, num_samples=0).probs, predictive.probs)
    own = predict(model, None, x, num_samples=0).probs
    torch.testing.assert_close(own, torch.full_like(own, 1 / 3))


@given(
    num_samples=st.integers(1, 12),
    num_data=st.floats(1e-3, 1e6),
    seed=st.integers(0, 2**62),
    scale=st.floats(1e-3, 1e4),
)
def test_the_decomposition_holds(num_samples, num_data, seed, scale):
    model, x = mlp(torch.float64), inputs().double() * scale
    predictive = predict(model, posterior_of(model, num_data), x, num_samples, seed=seed)
    total = predictive.expected_entropy + predictive.mutual_information
    torch.testing.assert_close(predictive.entropy, total, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(predictive.probs.sum(-1), torch.ones(12, dtype=torch.float64))
    for part in (predictive.entropy, predictive.expected_entropy, predictive.mutual_information):
        assert (part >= 0).all()
        assert (part <= math.log(3) + 1e-12).all()


def test_small_probabilities_keep_their_logarithms():
    model = nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[2000.0], [0.0]]))
    predictive = predict(model, posterior_of(model, num_data=1e12), torch.ones(1, 1), 4)
    assert predictive.probs[0, 1] == 0
    torch.testing.assert_close(predictive.log_probs[0, 1].item(), -2000.0, rtol=1e-5, atol=0)
    assert not predictive.entropy.isnan().any()


def test_classes_in_the_last_of_many_dimensions():
    model, x = mlp(), torch.randn(2, 5, 4)
    predictive = predict(model, posterior_of(model), x, 3)
    assert predictive.probs.shape == (2, 5, 3)
    assert predictive.entropy.shape == (2, 5)


# ------------------------------------------------------------------ the same in every way


def test_the_same_seed_gives_the_same_predictions():
    model, x = mlp(), inputs()
    posterior = posterior_of(model)
    first = predict(model, posterior, x, 4)
    torch.manual_seed(123)
    assert torch.equal(predict(model, posterior, x, 4).probs, first.probs)
    assert not torch.equal(predict(model, posterior, x, 4, seed=1).probs, first.probs)


@pytest.mark.parametrize("method", ["loop", "vmap"])
def test_tensors_batches_and_loaders_agree(method):
    model, x = mlp(torch.float64), inputs(rows=50).double()
    posterior = posterior_of(model)
    labels = torch.arange(50)
    whole = predict(model, posterior, x, 5, method=method)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, labels), batch_size=2)
    others = [
        predict(model, posterior, x, 5, batch_size=7, method=method),
        predict(model, posterior, x.split(9), 5, method=method),
        predict(model, posterior, (piece for piece in x.split(3)), 5, method=method),
        predict(model, posterior, loader, 5, method=method),
        predict(model, posterior, [{"rows": p} for p in x.split(13)], 5, method=method,
                forward=lambda model, batch: model(batch["rows"])),
    ]  # fmt: skip
    for other in others:
        torch.testing.assert_close(other.probs, whole.probs, rtol=1e-12, atol=0)
        torch.testing.assert_close(other.mutual_information, whole.mutual_information)


def test_batches_are_read_once_and_not_held():
    model = mlp()
    alive: list[weakref.ref] = []
    most = 0

    def batches():
        nonlocal most
        for number in range(40):
            batch = inputs(seed=number)
            alive.append(weakref.ref(batch))
            most = max(most, sum(ref() is not None for ref in alive))
            yield batch
            del batch

    predictive = predict(model, posterior_of(model), batches(), 3)
    assert len(predictive.probs) == 40 * 12
    assert len(alive) == 40
    assert most <= 9


@pytest.mark.parametrize("method", ["loop", "vmap"])
def test_memory_does_not_grow_with_the_number_of_samples(method):
    model, x = nn.Linear(200, 100), torch.randn(50, 200)
    posterior = posterior_of(model)
    few, many = (
        allocated(lambda n=n: predict(model, posterior, x, n, method=method))[0] for n in (16, 128)
    )
    assert few > 80_000
    assert many <= 1.1 * few


# ------------------------------------------------------------------ the model afterwards


class Fussy(nn.Module):
    """In training mode it gives other outputs; it fails when it is told to."""

    def __init__(self):
        super().__init__()
        self.linear, self.norm, self.drop = nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.5)
        self.fail_at = None
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        if self.calls == self.fail_at:
            raise KeyError("planted")
        return self.drop(self.norm(self.linear(x)))


@pytest.mark.filterwarnings("ignore:the model has running statistics")
def test_the_model_is_as_it_was_however_it_ends():
    model, x = Fussy(), inputs()
    model(x)
    model.drop.eval()
    posterior = posterior_of(model)
    before = [t.clone() for t in (*model.parameters(), *model.buffers())]
    for fail_at in (None, 1, 4):
        model.fail_at, model.calls = fail_at, 0
        if fail_at:
            with pytest.raises(KeyError, match="planted"):
                predict(model, posterior, x, 5)
        else:
            predict(model, posterior, x, 5)
        assert identical([*model.parameters(), *model.buffers()], before)
        assert (model.training, model.norm.training, model.drop.training) == (True, True, False)


@pytest.mark.filterwarnings("ignore:the model has running statistics")
def test_it_predicts_in_evaluation_mode():
    model, x = Fussy(), inputs()
    posterior = posterior_of(model)
    trained, evaluated = predict(model, posterior, x, 3), predict(model.eval(), posterior, x, 3)
    assert torch.equal(trained.probs, evaluated.probs)


@pytest.mark.filterwarnings("ignore:the model has running statistics")
def test_refresh_makes_statistics_for_each_draw():
    model, x = Fussy(), inputs(rows=64)
    posterior = posterior_of(model)
    refreshed = predict(model, posterior, x, 4, refresh=[x])
    expected = []
    for number in range(4):
        weights = posterior.draw(number, seed=0)
        hidden = x @ weights["linear.weight"].T + weights["linear.bias"]
        hidden = (hidden - hidden.mean(0)) / (hidden.var(0) + 1e-5).sqrt()
        expected.append((hidden * weights["norm.weight"] + weights["norm.bias"]).softmax(-1))
    expected = torch.stack(expected).mean(0).double()
    torch.testing.assert_close(refreshed.probs, expected, rtol=1e-4, atol=1e-5)
    assert (predict(model, posterior, x, 4).probs - expected).abs().max() > 0.01
    assert torch.equal(predict(model, posterior, x, 4, refresh=x).probs, refreshed.probs)
    before = [b.clone() for b in model.buffers()]
    predict(model, None, x, 0, refresh=[x + 5])
    assert identical(model.buffers(), before)
    with pytest.raises(ValueError, match="method='vmap': must be 'loop' with refresh"):
        predict(model, posterior, x, 4, refresh=[x], method="vmap")
    with pytest.raises(TypeError, match="refresh=<iterator>: must be readable once for each draw"):
        predict(model, posterior, x, 4, refresh=iter([x]))


def test_drawn_weights_that_meet_statistics_of_others_are_pointed_out():
    model, x = Fussy(), inputs()
    posterior = posterior_of(model)
    with pytest.warns(UserWarning, match=r"running statistics \(BatchNorm\).*pass refresh="):
        predict(model, posterior, x, 2)
    predict(model, posterior, x, 2, refresh=[x])
    predict(model, posterior, x, num_samples=0)


def test_predictions_print_as_names_and_shapes():
    model = mlp()
    text = repr(predict(model, posterior_of(model), inputs(), 2))
    assert text.startswith("Predictive(probs: (12, 3), log_probs: (12, 3), entropy: (12,), ")
    assert len(text) < 150


def test_progress_to_a_function():
    model, x = mlp(), inputs()
    posterior, seen = posterior_of(model), []
    predict(model, posterior, x, 3, batch_size=4, progress=lambda *state: seen.append(state))
    assert seen == [(done, 9) for done in range(1, 10)]
    seen.clear()
    predict(model, posterior, iter([x, x]), 2, progress=lambda *state: seen.append(state))
    assert seen == [(done, None) for done in range(1, 5)]


def test_progress_in_a_pipe_and_on_a_terminal(capsys, monkeypatch):
    model, x = mlp(), inputs()
    posterior = posterior_of(model)
    predict(model, posterior, x, 20)
    assert capsys.readouterr() == ("", "")
    predict(model, posterior, x, 20, progress=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [f"predict: {done}/20" for done in range(2, 21, 2)]
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    predict(model, posterior, x, 3, progress=True)
    assert capsys.readouterr().err == "".join(f"\rpredict: {n}/3" for n in (1, 2, 3)) + "\n"


def test_a_loader_whose_length_nobody_knows():
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(inputs())

    model = mlp()
    loader = torch.utils.data.DataLoader(Stream(), batch_size=5)
    seen = []
    predictive = predict(model, posterior_of(model), loader, 2, progress=lambda *s: seen.append(s))
    assert predictive.probs.shape == (12, 3)
    assert seen[-1] == (6, None)


def test_a_model_of_another_dtype_than_its_posterior():
    model, x = mlp(), inputs()
    posterior = posterior_of(model)
    expected = predict(model, posterior, x, 4).probs
    for method in ("loop", "vmap"):
        probs = predict(mlp(torch.float64), posterior, x.double(), 4, method=method).probs
        torch.testing.assert_close(probs, expected, rtol=1e-4, atol=1e-6)


# ------------------------------------------------------------------ misuse


def test_a_model_that_changes_its_inputs_is_pointed_out():
    x = inputs()

    class InPlace(nn.Linear):
        def forward(self, rows):
            return super().forward(rows.sub_(1.0))

    model = InPlace(4, 3)
    with pytest.raises(RuntimeError, match="inputs: the model changes them in place"):
        predict(model, posterior_of(model), x.clone(), 2)
    predict(model, posterior_of(model), x, 2, forward=lambda model, batch: model(batch.clone()))


def test_a_model_that_vmap_cannot_run_says_what_to_do():
    class Branching(nn.Linear):
        def forward(self, rows):
            outputs = super().forward(rows)
            return outputs if outputs.sum() > 0 else -outputs

    model = Branching(4, 3)
    with pytest.raises(RuntimeError, match=r"method='vmap': the model does not run .*'loop'"):
        predict(model, posterior_of(model), inputs(), 2, method="vmap")
    predict(model, posterior_of(model), inputs(), 2)


def test_nan_outputs_are_pointed_out():
    model, x = mlp(), inputs()
    x[3] = math.nan
    with pytest.warns(UserWarning, match="the model gave NaN for 1 of 12 inputs"):
        predict(model, posterior_of(model), x, 2)


BAD = [
    ({"num_samples": -1}, ValueError, "num_samples=-1: must be at least 0; 0 predicts at the mean"),
    ({"num_samples": 2.5}, TypeError, r"num_samples=2\.5: must be an integer"),
    ({"seed": -3}, ValueError, "seed=-3: must be at least 0"),
    ({"seed": None}, TypeError, "seed=None: must be an integer"),
    ({"likelihood": "poisson"}, ValueError, "likelihood='poisson': must be one of 'categorical',"),
    ({"method": "fast"}, ValueError, "method='fast': must be one of 'loop', 'vmap'"),
    ({"batch_size": 0}, ValueError, "batch_size=0: must be at least 1"),
    ({"noise_variance": 1.0}, ValueError, "must be left out for likelihood='categorical'"),
    ({"progress": 3}, TypeError, "progress=3: must be True, False or a function"),
    (
        {"posterior": None},
        ValueError,
        "posterior=None: must be a GaussianPosterior for num_samples",
    ),
    ({"posterior": {}}, TypeError, "posterior=dict: must be a GaussianPosterior"),
    ({"model": 3}, TypeError, "model=int: must be a module"),
    ({"inputs": 3}, TypeError, "inputs: int: must be a tensor or an iterable of batches"),
    ({"inputs": np.zeros((3, 4))}, TypeError, r"inputs: ndarray: .*torch\.as_tensor"),
    ({"inputs": []}, ValueError, "inputs: is empty: must hold at least one batch"),
    ({"inputs": [3]}, TypeError, "inputs: a batch is int: must be a tensor, or a tuple or list"),
    ({"inputs": [{"x": 1}]}, TypeError, "inputs: a batch is dict: .*pass forward="),
    ({"inputs": torch.tensor(1.0)}, ValueError, "inputs: a 0-d tensor: must have examples"),
    (
        {"inputs": [torch.zeros(1, 4)], "batch_size": 3},
        ValueError,
        "batch_size=3: must be left out",
    ),
    ({"likelihood": "gaussian"}, ValueError, "noise_variance=None: must be the variance of y"),
    (
        {"likelihood": "gaussian", "noise_variance": 0},
        ValueError,
        "noise_variance=0: must be greater than 0",
    ),
    (
        {"likelihood": "gaussian", "noise_variance": torch.tensor([1.0, -1.0, 1.0])},
        ValueError,
        "noise_variance=<tensor>: must be positive everywhere",
    ),
    (
        {"forward": lambda _, __: "no"},
        TypeError,
        "outputs: the model gave str: must be a floating point",
    ),
    (
        {"forward": lambda _, batch: batch.argmax(1)},
        TypeError,
        r"outputs: the model gave Tensor torch\.int64, 1-d: must be a floating point tensor of",
    ),
    (
        {"forward": lambda model, batch: model(batch)[:, :1]},
        ValueError,
        r"shape \(12, 1\): must be logits .* at least 2 classes; for one logit .*'bernoulli'",
    ),
    (
        {"forward": lambda model, batch: model(batch)[:, 0]},
        ValueError,
        r"shape \(12,\): must be logits of shape \(n, \.\.\., classes\)",
    ),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD)
def test_bad_arguments(change, error, message):
    model = mlp()
    arguments = {"model": model, "posterior": posterior_of(model), "inputs": inputs()} | change
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(error, match=message):
        predict(**arguments)
    assert identical(model.parameters(), before)
    assert model.training


@pytest.mark.parametrize(
    "variance", [lambda mean: mean * 0, lambda mean: -mean.exp(), lambda mean: mean.exp()[:, :1]]
)
def test_a_variance_that_is_none_is_refused(variance):
    model = nn.Linear(4, 2)
    with pytest.raises(ValueError, match=r"outputs: .*must be of one shape, the variance positive"):
        predict(model, posterior_of(model), inputs(), 2, likelihood="gaussian",
                forward=lambda model, batch: (model(batch), variance(model(batch))))  # fmt: skip
    with pytest.raises(ValueError, match=r"noise_variance: shape \(12, 1\) for outputs of shape"):
        predict(model, posterior_of(model), inputs(), 2, likelihood="gaussian",
                noise_variance=torch.ones(12, 1))  # fmt: skip


def test_a_variance_twice_is_refused():
    model = nn.Linear(4, 2)
    settings = {"likelihood": "gaussian", "noise_variance": 1.0}
    with pytest.raises(ValueError, match="noise_variance: must be left out, since the model gives"):
        predict(model, posterior_of(model), inputs(), 2, **settings,
                forward=lambda model, batch: tuple(model(batch).unbind(-1)))  # fmt: skip
