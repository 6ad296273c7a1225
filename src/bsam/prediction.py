"""Predictions averaged over the posterior, split into what is noise and what is not known."""

import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn

from bsam import inputs as batching
from bsam import naming, noise, normalization, options, predictive, reporting
from bsam.borrowing import evaluating, restored
from bsam.posterior import GaussianPosterior, Place
from bsam.predictive import GaussianPredictive, Predictive

Draws = Callable[[], Iterator[Mapping[str, Tensor]]]
"""Gives weights by name, draw by draw, each time anew."""

Run = Callable[[list[Any]], Iterator[tuple[int, Any]]]
"""Runs the model on a list of batches and yields (number of the batch, outputs) for each draw."""

# A draw is placed once for so many batches of an iterable: making one costs about a pass, and to
# hold all batches could cost any amount of memory.
_BATCHES_PER_DRAW = 8
_DRAWS_AT_ONCE = 8


@overload
def predict(
    model: nn.Module,
    posterior: GaussianPosterior | None,
    inputs: Tensor | Iterable[Any],
    num_samples: int = ...,
    *,
    likelihood: Literal["categorical", "bernoulli"] = ...,
    noise_variance: float | Tensor | None = ...,
    seed: int = ...,
    method: str = ...,
    batch_size: int | None = ...,
    forward: batching.Forward = ...,
    refresh: Iterable[Any] | None = ...,
    progress: bool | reporting.Progress = ...,
) -> Predictive: ...
@overload
def predict(
    model: nn.Module,
    posterior: GaussianPosterior | None,
    inputs: Tensor | Iterable[Any],
    num_samples: int = ...,
    *,
    likelihood: Literal["gaussian"],
    noise_variance: float | Tensor | None = ...,
    seed: int = ...,
    method: str = ...,
    batch_size: int | None = ...,
    forward: batching.Forward = ...,
    refresh: Iterable[Any] | None = ...,
    progress: bool | reporting.Progress = ...,
) -> GaussianPredictive: ...
def predict(
    model: nn.Module,
    posterior: GaussianPosterior | None,
    inputs: Tensor | Iterable[Any],
    num_samples: int = 32,
    *,
    likelihood: str = "categorical",
    noise_variance: float | Tensor | None = None,
    seed: int = 0,
    method: str = "loop",
    batch_size: int | None = None,
    forward: batching.Forward = batching.call,
    refresh: Iterable[Any] | None = None,
    progress: bool | reporting.Progress = False,
) -> Predictive | GaussianPredictive:
    r"""Predict with the average over weights drawn from the posterior.

    .. math:: p(y \mid x) \approx \frac1S \sum_{i=1}^S p(y \mid x, \theta_i), \qquad
              \theta_i \sim N(\omega, 1/(N s))

    The model is in evaluation mode meanwhile, and has bit for bit its own weights, buffers and mode
    again afterwards, however it ends. Memory does not grow with the number of samples. The same
    seed gives the same predictions on every run.

    Args:
        model: the model that was trained, or one built alike; compiled, wrapped, on any device.
        posterior: ``optimizer.posterior(model)`` or a loaded one; weights and running statistics
            are its own, not the model's. None, with num_samples 0, predicts at the model's.
        inputs: a tensor, shape (n, ...), or an iterable of batches, read once: tensors, or
            sequences that begin with the inputs, such as a DataLoader gives.
        num_samples: S >= 1; 0 predicts at the mean.
        likelihood: ``"categorical"``: the model gives logits, shape (n, ..., classes);
            ``"bernoulli"``: logits of y = 1, any shape (n, ...); ``"gaussian"``: means, any shape
            (n, ...), or a pair (mean, variance).
        noise_variance: variance of y around the model's mean, > 0, a number or a tensor that
            broadcasts to the outputs; for "gaussian" where the model gives no variance.
        seed: of the draws, in ``[0, 2**63)``.
        method: ``"loop"`` runs the model once for each draw; ``"vmap"`` for 8 draws at once (more
            memory; pays off for small models).
        batch_size: rows at a time where inputs is a tensor; None takes all.
        forward: called as ``forward(model, batch)`` to get the outputs, for models or batches that
            need more than ``model(batch)``.
        refresh: training batches with which to make running statistics of BatchNorm anew for each
            draw; read for each draw, and again for each 8 batches of an iterable, so a list or a
            loader that does not shuffle.
        progress: True shows on standard error how far it is; or a function that is called with
            (passes done, passes in all or None).

    Returns:
        A :class:`Predictive`, for "gaussian" a :class:`GaussianPredictive`; rows in the order of
        the inputs.

    Raises:
        ValueError, TypeError: for an argument that is not allowed, a model that is not the
            posterior's, or outputs that do not fit the likelihood.

    Warns:
        UserWarning: for a model with running statistics and no ``refresh``, and for NaN outputs.

    References:
        S. Depeweg et al., "Decomposition of uncertainty in Bayesian deep learning", ICML 2018.

    Example:
        >>> import torch, bsam
        >>> model = torch.nn.Linear(2, 3)
        >>> optimizer = bsam.BSAM(model.parameters(), lr=0.1, num_data=10)
        >>> posterior = optimizer.posterior(model)
        >>> predictive = bsam.predict(model, posterior, torch.randn(5, 2))
        >>> predictive.probs.shape, predictive.mutual_information.shape
        (torch.Size([5, 3]), torch.Size([5]))
    """
    num_samples = options.integer("num_samples", num_samples, advice="0 predicts at the mean")
    seed = options.integer("seed", seed, below=noise.SEEDS, advice="0 is as good as any")
    options.one_of("method", method, ("loop", "vmap"), advice="both give the same numbers")
    _require_sense(model, posterior, num_samples, method, refresh)
    new_accumulator = predictive.accumulators(likelihood, noise_variance)
    batches = batching.batches_of(inputs, batch_size)
    passes = batching.count(batches)
    _point_out_statistics(model, num_samples, refresh)
    report = reporting.reporter(progress, passes and passes * max(num_samples, 1))
    finished: list[predictive.Accumulator] = []
    if isinstance(model, nn.parallel.DistributedDataParallel):
        model = model.module  # whose forward pass would wait for the other processes
    with torch.no_grad(), evaluating(model), _lent(model, posterior) as place:
        draws = _draws(posterior and posterior.to_devices_of(model), num_samples, seed)
        if method == "vmap" and num_samples:
            run = _vmapping(model, draws, forward)
        else:
            run = _looping(model, draws, forward, place, refresh)
        # Pieces of a tensor are all there already: one block of them.
        length = _BATCHES_PER_DRAW if passes is None or not isinstance(inputs, Tensor) else passes
        for block in batching.blocks_of(batches, length):
            running = [new_accumulator() for _ in block]
            for number, outputs in run(block):
                running[number].add(outputs)
                report()
            finished += running
    if not finished:
        raise ValueError("inputs: is empty: must hold at least one batch.")
    return _checked(predictive.joined([each.result() for each in finished]))


def _require_sense(
    model: object, posterior: object, num_samples: int, method: str, refresh: object
) -> None:
    naming.require_module(model)
    if posterior is None and num_samples:
        raise ValueError(
            f"posterior=None: must be a GaussianPosterior for num_samples={num_samples}; pass "
            "optimizer.posterior(model), or num_samples=0 to predict at the model's own weights."
        )
    if posterior is not None and not isinstance(posterior, GaussianPosterior):
        raise TypeError(
            f"posterior={type(posterior).__name__}: must be a GaussianPosterior; pass "
            "optimizer.posterior(model) or GaussianPosterior.load(path)."
        )
    if refresh is not None and method == "vmap":
        raise ValueError("method='vmap': must be 'loop' with refresh, which goes draw by draw.")
    if refresh is not None and not isinstance(refresh, Iterable):
        raise TypeError(f"refresh={refresh!r}: must hold training batches; pass a list or loader.")
    if isinstance(refresh, Iterator):
        raise TypeError(
            "refresh=<iterator>: must be readable once for each draw; pass a list or a loader."
        )


def _point_out_statistics(model: nn.Module, num_samples: int, refresh: object) -> None:
    if num_samples and refresh is None and normalization.tracking_layers(model):
        warnings.warn(
            "the model has running statistics (BatchNorm), and weights drawn from the posterior "
            "meet those of other weights, which can ruin the average: pass refresh=[training "
            "batches], or num_samples=0 to predict at the mean.",
            stacklevel=3,
        )


@contextmanager
def _lent(model: nn.Module, posterior: GaussianPosterior | None) -> Generator[Place, None, None]:
    """The model at the posterior's mean; without a posterior as it is."""
    if posterior is None:
        with restored(list(model.buffers())):
            yield lambda _: None
    else:
        with posterior.lent(model) as place:
            yield place


def _draws(posterior: GaussianPosterior | None, num_samples: int, seed: int) -> Draws:
    """Weights to place; at the mean, where the model is already, a single draw of none."""
    if posterior is None or not num_samples:
        return lambda: iter([{}])
    draw = partial(posterior.draw, seed=seed)
    return lambda: map(draw, range(num_samples))


def _looping(
    model: nn.Module,
    draws: Draws,
    forward: batching.Forward,
    place: Place,
    refresh: Iterable[Any] | None,
) -> Run:
    def run(block: list[Any]) -> Iterator[tuple[int, Any]]:
        for weights in draws():
            place(weights)
            if refresh is not None:
                normalization.refresh_statistics(model, refresh, forward=forward)
            for number, batch in enumerate(block):
                yield number, forward(model, batch)

    return run


class _Caller(nn.Module):
    """A model with what calls it, so that all of it can run with other weights."""

    def __init__(self, model: nn.Module, forward: batching.Forward) -> None:
        super().__init__()
        self.model, self.call = model, forward

    def forward(self, batch: Any) -> Any:
        return self.call(self.model, batch)


def _vmapping(model: nn.Module, draws: Draws, forward: batching.Forward) -> Run:
    inner = naming.unwrapped(model)  # vmap cannot look into a compiled model
    caller = _Caller(inner, forward)
    own = naming.own_parameters(inner)
    names = dict(zip(own, dict(inner.named_parameters()), strict=True))

    def run(block: list[Any]) -> Iterator[tuple[int, Any]]:
        remaining = draws()
        while several := list(islice(remaining, _DRAWS_AT_ONCE)):
            stacked = {
                f"model.{names[name]}": torch.stack(
                    [weights[name].to(own[name]) for weights in several]
                )
                for name in several[0]
            }
            together = len(several)
            del several  # their memory is what the pass will need
            for number, batch in enumerate(block):

                def call(weights: dict[str, Tensor], batch: Any = batch) -> Any:
                    return torch.func.functional_call(caller, weights, (batch,))

                outputs = _vmapped(call, stacked)
                for row in range(together):
                    pair = isinstance(outputs, tuple | list)
                    yield number, [o[row] for o in outputs] if pair else outputs[row]
            stacked.clear()

    return run


def _vmapped(call: Callable[[dict[str, Tensor]], Any], stacked: dict[str, Tensor]) -> Any:
    try:
        return torch.vmap(call, randomness="different")(stacked)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise RuntimeError(
            f"method='vmap': the model does not run under torch.vmap ({reason}): use method='loop'."
        ) from error


def _checked(result: Any) -> Any:
    main = result.mean if isinstance(result, GaussianPredictive) else result.probs
    if count := int(main.isnan().flatten(1).any(1).sum() if main.dim() > 1 else main.isnan().sum()):
        warnings.warn(
            f"the model gave NaN for {count} of {len(main)} inputs: look for NaN in the inputs, or "
            "an overflow at weights drawn from the posterior (raise num_data or damping).",
            stacklevel=3,
        )
    return result
