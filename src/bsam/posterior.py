"""GaussianPosterior: what a run has learned about the weights, without the optimizer."""

import os
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bsam import gaussian, naming, noise, options, posterior_file
from bsam import posterior_arguments as arguments
from bsam.borrowing import move, restored

# No step has so many sub-batches: draws for prediction are not those that the training saw, even
# where the same seed is used for both.
_PREDICTION = 2**32

Place = Callable[[Mapping[str, Tensor]], None]
"""Copies weights, by name, into a model that is lent."""


class GaussianPosterior:
    r"""A diagonal Gaussian :math:`N(\omega, 1/(N s))` over the weights of a model.

    ``optimizer.posterior(model)`` makes one. It holds copies, needs neither the optimizer nor the
    model that trained it, and goes to a file and back: another process builds the model anew, loads
    the posterior and predicts with :func:`bsam.predict`.

    Names are those of ``model.named_parameters()`` without what wrappers add (``torch.compile``,
    data parallel), so a posterior fits the model wrapped or not.

    Args:
        mean: :math:`\omega` by parameter name, for all parameters of the model.
        precision: :math:`\lambda = N s > 0` by name, of the mean's shape. Parameters that are not
            in it are fixed at their mean.
        num_data: N, for :meth:`kl_to_prior`; a number or one for each name.
        weight_decay: :math:`\delta`, prior precision / N, likewise.
        buffers: buffers of the model by name, such as running statistics.

    Raises:
        ValueError, TypeError: for names or shapes that do not agree, a precision that is not
            positive and finite, a mean that is not finite.

    References:
        T. Moellenhoff and M. E. Khan, "SAM as an Optimal Relaxation of Bayes", ICLR 2023, section 3
        and Algorithm 1.

    Example:
        >>> import torch, bsam
        >>> mean, precision = {"weight": torch.zeros(1, 2)}, {"weight": torch.full((1, 2), 4.0)}
        >>> posterior = bsam.GaussianPosterior(mean, precision)
        >>> posterior
        GaussianPosterior(1 parameter, 2 weights, all random)
        >>> posterior.variance["weight"]
        tensor([[0.2500, 0.2500]])
        >>> posterior.sample(1000, seed=0)["weight"].std(0)
        tensor([[0.5130, 0.4986]])
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> with posterior.sampled(model, seed=0):  # at one draw; afterwards the weights are back
        ...     _ = model(torch.ones(1, 2))
    """

    def __init__(
        self,
        mean: Mapping[str, Tensor],
        precision: Mapping[str, Tensor],
        *,
        num_data: float | Mapping[str, float] | None = None,
        weight_decay: float | Mapping[str, float] | None = None,
        buffers: Mapping[str, Tensor] | None = None,
    ) -> None:
        arguments.require_agreement(mean, precision)
        self.mean = _copies(mean)
        self.precision = _copies({name: precision[name] for name in mean if name in precision})
        self.buffers = _copies(buffers or {})
        self.num_data = arguments.per_parameter("num_data", num_data, precision)
        self.weight_decay = arguments.per_parameter("weight_decay", weight_decay, precision)

    # -------------------------------------------------------------- the distribution

    @property
    def variance(self) -> dict[str, Tensor]:
        """The variances, 1 / precision, by name."""
        return {name: precision.reciprocal() for name, precision in self.precision.items()}

    def log_prob(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Return the log density of weights, such as rows of :meth:`sample`, in nats.

        Args:
            weights: by name, each of shape ``(..., *mean.shape)`` with the same (...); fixed
                parameters may be left out.

        Returns:
            Shape (...), float64.

        Raises:
            ValueError: if a name is missing or a shape is not the mean's.
        """
        total: Tensor | None = None
        for name, precision in self.precision.items():
            if name not in weights:
                raise ValueError(
                    f"weights: lacks {name!r}: must hold {arguments.listed(self.precision)}."
                )
            value, shape = weights[name], precision.shape
            batch = value.shape[: value.dim() - len(shape)]
            same = total is None or batch == total.shape
            if value.shape[len(batch) :] != shape or not same:
                raise ValueError(
                    f"weights: {name!r} has shape {tuple(value.shape)}: must be (..., "
                    f"{', '.join(map(str, shape))}) with one (...) for all."
                )
            each = gaussian.log_prob(value, self.mean[name], precision)
            total = each if total is None else total + each.to(total.device)
        assert total is not None  # there is at least one random parameter
        return total

    def entropy(self) -> Tensor:
        """Return the entropy in nats, a 0-d float64 tensor."""
        return _total([gaussian.entropy(precision) for precision in self.precision.values()])

    def kl_to_prior(self) -> Tensor:
        r"""Return the divergence from the prior :math:`N(0, 1/(N\delta))` in nats, 0-d, float64.

        Raises:
            ValueError: if num_data or weight_decay is not known, or weight_decay is 0 for a random
                parameter: its prior is then flat and no distribution.
        """
        if self.num_data is None or self.weight_decay is None:
            raise ValueError(
                "kl_to_prior() needs the prior: num_data and weight_decay must be given; pass them "
                "to GaussianPosterior, as optimizer.posterior(model) does."
            )
        parts = []
        for name, precision in self.precision.items():
            num_data, weight_decay = _of(self.num_data, name), _of(self.weight_decay, name)
            prior = gaussian.prior_precision(num_data, weight_decay)
            if prior <= 0.0:
                raise ValueError(
                    f"weight_decay={weight_decay!r} of {name!r}: must be positive for "
                    "kl_to_prior(), since the prior is flat without it; give its parameter group a "
                    "weight decay."
                )
            parts.append(gaussian.kl_divergence(self.mean[name], precision, prior))
        return _total(parts)

    def scaled(self, temperature: float) -> "GaussianPosterior":
        """Return the posterior at a temperature: every precision divided by it.

        Args:
            temperature: > 0; below 1 it is narrower ("cold"), above 1 wider.

        Raises:
            ValueError, TypeError: if it is not a positive number.
        """
        advice = "1 changes nothing; for the mean alone use predict(..., num_samples=0)"
        temperature = options.real("temperature", temperature, above=0.0, advice=advice)
        divided = {n: p / temperature for n, p in self.precision.items()}
        if not all(map(arguments.is_precision, divided.values())):
            raise ValueError(
                f"temperature={temperature!r}: must leave every precision positive and finite; "
                "choose one nearer to 1."
            )
        return self._with(precision=divided)

    # -------------------------------------------------------------- samples

    def draw(self, number: int, *, seed: int) -> dict[str, Tensor]:
        """Return one draw of the random parameters, by name: row ``number`` of :meth:`sample`.

        Args:
            number: which draw, >= 0.
            seed: of the draws, in ``[0, 2**63)``.

        Raises:
            ValueError, TypeError: if number or seed is not such an integer.
        """
        number = options.integer("number", number, advice="0 is the first draw")
        seed = options.integer("seed", seed, below=noise.SEEDS, advice="0 is as good as any")
        precisions = list(self.precision.values())
        first = dict(zip(self.mean, noise.first_elements(self.mean.values()), strict=True))
        normal = noise.standard_normal_like(
            precisions,
            [first[name] for name in self.precision],
            noise.stream_key(seed, number, _PREDICTION),
            by_rows=True,
        )
        means = [self.mean[name] for name in self.precision]
        gaussian.to_draws_(normal, means, precisions)
        return {
            name: draw.to(mean.dtype)
            for name, mean, draw in zip(self.precision, means, normal, strict=True)
        }

    def sample(self, n: int, *, seed: int | None = None) -> dict[str, Tensor]:
        """Return n draws of all parameters, by name, each of shape (n, ...).

        The same seed gives the same draws on every run; more draws begin with the same ones.

        Args:
            n: how many, >= 1.
            seed: of the draws, in ``[0, 2**63)``; None takes one from torch's generator.

        Raises:
            ValueError, TypeError: if n or seed is not such an integer.
        """
        n = options.integer("n", n, at_least=1, advice="say how many draws")
        seed = options.seed(seed)
        draws = {
            name: mean.new_empty(n, *mean.shape) if name in self.precision else
            mean.expand(n, *mean.shape).clone()
            for name, mean in self.mean.items()
        }  # fmt: skip
        for number in range(n):
            for name, value in self.draw(number, seed=seed).items():
                draws[name][number] = value
        return draws

    @contextmanager
    def sampled(
        self, model: nn.Module, *, seed: int | None = None, number: int = 0
    ) -> Generator[None, None, None]:
        """Have the model at a draw from the posterior inside the block.

        Fixed parameters and buffers are the posterior's too. Afterwards, however the block ends,
        the model has bit for bit its own weights and buffers again; storage never moves.

        Args:
            model: the model that was trained, or one built alike; compiled, wrapped, on any device.
            seed: of the draws, in ``[0, 2**63)``; None takes one from torch's generator.
            number: which draw of that seed: row ``number`` of :meth:`sample`.

        Raises:
            ValueError: if the model is another one: names or shapes differ.
            ValueError, TypeError: if seed or number is not such an integer.
        """
        number = options.integer("number", number, advice="0 is the first draw")
        seed = options.seed(seed)
        with self.lent(model) as place:
            place(self.to_devices_of(model).draw(number, seed=seed))
            yield

    @contextmanager
    def lent(self, model: nn.Module) -> Generator[Place, None, None]:
        """Have the model at the mean inside the block, with a function that places other weights.

        What :meth:`sampled` and :func:`bsam.predict` are made of; it puts back like them.

        Args:
            model: as for :meth:`sampled`.

        Yields:
            ``place(weights)``: copies weights, such as those of :meth:`draw`, into the model.

        Raises:
            ValueError: if the model is another one.
        """
        there = naming.matching(model, self.mean, self.buffers)
        # All buffers, since a pass may move others than those that are held here.
        tensors = {id(each): each for each in (*there.values(), *model.buffers())}
        with restored(list(tensors.values())):
            held = {**self.mean, **self.buffers}
            move(list(there.values()), [held[name] for name in there])

            def place(weights: Mapping[str, Tensor]) -> None:
                move([there[name] for name in weights], list(weights.values()))

            yield place

    # -------------------------------------------------------------- elsewhere

    def to(self, device: torch.device | str) -> "GaussianPosterior":
        """Return the posterior on a device."""
        return self._with(
            mean={name: tensor.to(device) for name, tensor in self.mean.items()},
            precision={name: tensor.to(device) for name, tensor in self.precision.items()},
            buffers={name: tensor.to(device) for name, tensor in self.buffers.items()},
        )

    def to_devices_of(self, model: nn.Module) -> "GaussianPosterior":
        """Return the posterior with each tensor where the model has it; itself if all are there.

        Args:
            model: as for :meth:`sampled`.
        """
        there = naming.own_parameters(model)
        if all(mean.device == there[name].device for name, mean in self.mean.items()):
            return self
        return self._with(
            mean={name: mean.to(there[name].device) for name, mean in self.mean.items()},
            precision={name: p.to(there[name].device) for name, p in self.precision.items()},
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the posterior to a safetensors file, whole or not at all.

        Args:
            path: the file, by habit ``posterior.safetensors``; its folder must exist.

        Raises:
            OSError: if it cannot be written there; what stood there stays.
        """
        posterior_file.write(path, self._contents())

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, device: torch.device | str = "cpu"
    ) -> "GaussianPosterior":
        """Read a file that :meth:`save` wrote. Nothing in it is run.

        Args:
            path: the file.
            device: where to put the tensors.

        Raises:
            ValueError: if the file is not one, is damaged, or is of a newer version.
            OSError: if it cannot be read.
        """
        return cls(**posterior_file.read(path, torch.device(device)))

    def _contents(self) -> dict[str, Any]:
        return {
            "mean": self.mean,
            "precision": self.precision,
            "buffers": self.buffers,
            "num_data": self.num_data,
            "weight_decay": self.weight_decay,
        }

    def _with(self, **changed: Any) -> "GaussianPosterior":
        return GaussianPosterior(**{**self._contents(), **changed})

    def __repr__(self) -> str:
        total = sum(mean.numel() for mean in self.mean.values())
        random = sum(precision.numel() for precision in self.precision.values())
        kinds = "all random" if random == total else f"{random:,} of them random"
        tensors = f"{len(self.mean)} parameter{'s' * (len(self.mean) != 1)}"
        return f"GaussianPosterior({tensors}, {total:,} weights, {kinds})"


def _copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def _of(value: float | dict[str, float], name: str) -> float:
    return value[name] if isinstance(value, dict) else value


def _total(parts: list[Tensor]) -> Tensor:
    return torch.stack([part.to(parts[0].device) for part in parts]).sum()
