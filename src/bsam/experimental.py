"""What is being tried out: it may change, or go, in any version, a minor one too."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bsam import gaussian, options
from bsam.closures import Closure, loss_of
from bsam.gradients import present
from bsam.optimizer import BSAM

__all__ = ["OneGradientBSAM"]

_SAME = ("ascent_every", "ascent_start")  # a step is of one kind, whatever the group


class OneGradientBSAM(BSAM):
    r"""bSAM whose steps take one gradient, at the noisy weights, in all or in most steps.

    .. math::
        \theta_j &= \omega + f e_j / \sqrt{N s}, \quad e_j \sim N(0, I)
            & g_j &= \nabla \ell_j(\theta_j) \\
        g_m &\leftarrow \beta_1 g_m + (1-\beta_1)(\bar g + \delta \omega)

    with f the ``noise_factor``; s and the mean as for :class:`bsam.BSAM`, whose posterior, of
    variance 1 / (N s) whatever f is, it keeps. `docs/one_gradient.md` says what that gains and
    loses. Steps are made by ``step(closure)``, which calls a closure once where the step takes one
    gradient and returns the mean loss at the noisy weights, or by lists of closures; so gradients
    cannot be clipped between the passes and the step.

    Args:
        params: as for :class:`bsam.BSAM`.
        lr: as for :class:`bsam.BSAM`.
        num_data: as for :class:`bsam.BSAM`.
        ascent_every: None never perturbs; k takes the two gradients of bSAM in the steps 0, k, 2 k
            and so on, counted as ``calls`` is. 1 is bSAM, bit for bit. The same in all groups.
        ascent_start: number of steps at the start that take one gradient in any case, 0 or more;
            for ascents late in training. The same in all groups.
        noise_factor: f > 0. Noise stands in for bSAM's perturbation by a batch of B examples with
            :math:`f = \sqrt{1 + N \rho / B}`.
        **of_bsam: as for :class:`bsam.BSAM`; rho serves the steps with two gradients alone.

    Raises:
        ValueError, TypeError: for a value that is not allowed; the message says what is.

    Example:
        >>> import torch, bsam
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = bsam.experimental.OneGradientBSAM(
        ...     model.parameters(), lr=0.1, num_data=64, noise_factor=1.25
        ... )
        >>> passes = []
        >>> def closure():
        ...     passes.append(optimizer.phase)
        ...     loss = (model(torch.ones(64, 3)) - 1.0).square().mean()
        ...     loss.backward()
        ...     return loss
        >>> loss = optimizer.step(closure)
        >>> passes
        ['sampled']
    """

    _given: Mapping[str, Any] = {}  # what BSAM does not know of, until it is among the defaults

    def __init__(
        self,
        params: Any,
        lr: float | Tensor,
        *,
        num_data: float,
        ascent_every: int | None = None,
        ascent_start: int = 0,
        noise_factor: float = 1.0,
        **of_bsam: Any,
    ) -> None:
        own = {
            "ascent_every": ascent_every,
            "ascent_start": ascent_start,
            "noise_factor": noise_factor,
        }
        self._given = _checked(own)
        super().__init__(params, lr, num_data=num_data, **of_bsam)
        self.defaults |= self._given

    # -------------------------------------------------------------- the step

    def _pair(self, closure: Closure) -> Tensor | None:
        if self._ascends():
            return super()._pair(closure)
        params, share = self._trainable(), 1.0 / (self._sub_batches + 1)
        with self._moved("sampled", params), torch.enable_grad():
            self._to_sample(params)
            torch.clear_autocast_cache()
            loss = loss_of(closure())
            gradients, _ = self._collect(params, 1.0, None)
        if self._in_closures == 1:
            self._first = present(gradients)
        else:  # for what it records of the gradient; where it moves the weights to, no one looks
            self._to_perturbation(gradients, share)
        self._merge(gradients, share)
        self._weight_sum += 1.0
        self._sub_batches += 1
        return loss

    def _ascends(self) -> bool:
        every, start, calls = (self.param_groups[0][name] for name in (*_SAME, "calls"))
        return every is not None and bool(calls >= start and calls % every == 0)

    def _looks_later(self) -> bool:
        return self._ascends() and super()._looks_later()

    def _num_data_of_noise(self, group: dict[str, Any]) -> float:
        return gaussian.widened(group["num_data"], group["noise_factor"])

    # -------------------------------------------------------------- what is refused

    def sampled(self, **about: Any) -> Any:
        """Refuse: steps are made by ``step(closure)``, which knows how many gradients they take.

        Raises:
            RuntimeError: always.
        """
        self._require_closures("sampled()")
        return super().sampled(**about)

    def perturbed(self, **about: Any) -> Any:
        """Refuse, as :meth:`sampled` does.

        Raises:
            RuntimeError: always.
        """
        self._require_closures("perturbed()")
        return super().perturbed(**about)

    def _step_recorded(self) -> None:
        if any(p.grad is not None and p.grad.count_nonzero() for p in self._trainable()):
            raise RuntimeError(
                "step() found gradients that no closure left: OneGradientBSAM makes steps by "
                "step(closure) or a list of closures alone; put forward and backward into one."
            )
        super()._step_recorded()

    def _require_closures(self, what: str) -> None:
        if not self._in_closures:
            raise RuntimeError(
                f"{what}: OneGradientBSAM has no contexts, since its steps take one gradient or "
                "two; use step(closure), or bsam.BSAM."
            )

    def update_statistics(self, model: nn.Module, *, during: str) -> None:
        """Say which passes move running statistics; see :meth:`bsam.BSAM.update_statistics`.

        Args:
            model: the model whose layers are meant.
            during: ``"both"``, ``"sampled"``, ``"none"``, and ``"perturbed"`` if there are such
                passes.

        Raises:
            RuntimeError, ValueError, TypeError: as there.
        """
        if during == "perturbed" and self.param_groups[0]["ascent_every"] is None:
            raise ValueError(
                "during='perturbed': must be 'both', 'sampled' or 'none' where ascent_every=None, "
                "since no pass is perturbed; use 'sampled'."
            )
        super().update_statistics(model, during=during)

    # -------------------------------------------------------------- options

    def _checked_options(self, group: dict[str, Any]) -> dict[str, Any]:
        defaults = {**self._given, **self.defaults}
        group = {**defaults, **group}
        first = self.param_groups[0] if self.param_groups else group
        for name in _SAME:
            if group[name] not in (defaults[name], first[name]):
                raise ValueError(
                    f"{name}={group[name]!r}: must be that of the other groups, {first[name]}; a "
                    "step takes one gradient or two for all parameters, so leave it out."
                )
            group[name] = first[name]
        return super()._checked_options(group) | _checked(group)

    def _require_fitting(self, state_dict: dict[str, Any]) -> None:
        super()._require_fitting(state_dict)
        for group in state_dict["param_groups"]:
            _checked(group)


def _checked(group: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that BSAM does not know of as plain values, or raise."""
    every, advice = group["ascent_every"], "None never perturbs, 1 is bSAM"
    if every is not None:
        every = options.integer("ascent_every", every, at_least=1, advice=advice)
    start = options.integer(
        "ascent_start", group["ascent_start"], advice="pass the number of steps before ascents"
    )
    factor = options.real(
        "noise_factor", group["noise_factor"], above=0.0, advice="1 is the posterior's own noise"
    )
    if start and every is None:
        raise ValueError(
            f"ascent_start={start}: must be 0 where ascent_every=None, which never perturbs; pass "
            "ascent_every=1 for two gradients in every step from there."
        )
    if every is not None and group.get("capturable", False):
        raise ValueError(
            f"capturable=True: must be False where ascent_every={every}, since a graph repeats the "
            "passes that it captured; pass ascent_every=None."
        )
    return {"ascent_every": every, "ascent_start": start, "noise_factor": factor}
