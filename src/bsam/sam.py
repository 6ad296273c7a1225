"""SAM: the baseline that bSAM is measured against, over any of torch's optimizers."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from bsam import options
from bsam.dtypes import state_dtype, widest_dtype
from bsam.engine import TwoPassOptimizer
from bsam.gradients import Gradients, norms, present
from bsam.parameters import groups_of


class SAM(TwoPassOptimizer):
    r"""Sharpness-aware minimization around a base optimizer.

    .. math::
        g_j = \nabla \ell_j(w), \qquad
        \epsilon_j = \rho\, \frac{g_j}{\lVert g_j \rVert_2}, \qquad
        q_j = \nabla \ell_j(w + \epsilon_j)

    for sub-batches j, with one 2-norm over all parameters together; the base optimizer then makes
    its step at w with the mean of the :math:`q_j`. With ``adaptive=True`` (ASAM)
    :math:`\epsilon_j = \rho\, w^2 g_j / \lVert\, |w|\, g_j \rVert_2`. A zero gradient perturbs by
    zero.

    The three ways to make a step are those of :class:`bsam.BSAM`; :meth:`sampled` takes the
    gradient at the weights themselves. ``param_groups`` and ``state`` are the base optimizer's own,
    so schedulers reach both and ``state_dict`` holds all there is; ``rho`` and ``adaptive`` are
    keys of the groups beside the base's.

    Args:
        params: parameters, groups or ``model.named_parameters()``.
        base_optimizer: class of the base, such as ``torch.optim.SGD``.
        rho: radius :math:`\rho \ge 0` of the perturbation in the 2-norm.
        adaptive: scale the perturbation with the weights (ASAM).
        **base_options: passed to the base: ``lr``, ``momentum``, ``weight_decay``, ...

    Raises:
        ValueError, TypeError: for a value that is not allowed, or a base that cannot serve.

    References:
        P. Foret et al., "Sharpness-aware minimization for efficiently improving generalization",
        ICLR 2021, equation 2. J. Kwon et al., "ASAM: adaptive sharpness-aware minimization", ICML
        2021.

    Example:
        >>> import torch, bsam
        >>> w = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> optimizer = bsam.SAM([w], torch.optim.SGD, rho=0.5, lr=0.1)
        >>> def closure():
        ...     loss = 0.5 * w.square().sum()
        ...     loss.backward()
        ...     return loss
        >>> optimizer.step(closure)  # at w + 0.5 * w / 5, where the loss is 0.5 * 5.5**2
        tensor(15.1250)
        >>> w.data
        tensor([2.6700, 3.5600])
    """

    def __init__(
        self,
        params: Any,
        base_optimizer: Callable[..., torch.optim.Optimizer],
        *,
        rho: float,
        adaptive: bool = False,
        **base_options: Any,
    ) -> None:
        _require_usable(base_optimizer)
        own = options.of_sam({"rho": rho, "adaptive": adaptive})
        self.base_optimizer = base_optimizer(groups_of(params), **base_options)
        _require_usable(type(self.base_optimizer))  # what a factory made
        self._provisional: set[Tensor] = set()  # whose state a step with zero gradients made
        super().__init__(self.base_optimizer.param_groups, own)
        self.defaults = {**self.base_optimizer.defaults, **own}
        self._share()

    # -------------------------------------------------------------- the two passes

    def _to_sample(self, params: list[Tensor]) -> None:  # noqa: ARG002 - wherever they are
        """Be at the weights: SAM takes its first gradient there."""
        self._aside.put_back()

    @torch.no_grad()
    def _to_perturbation(
        self,
        gradients: Gradients,
        share: float | None,  # noqa: ARG002 - nothing of the first gradient is recorded
    ) -> Gradients:
        self._aside.take(list(gradients), self._room)
        groups = {p: group for group in self.param_groups for p in group["params"]}
        uphill = {
            p: _wide(p).abs() * gradient if groups[p]["adaptive"] else _wide(gradient)
            for p, gradient in present(gradients).items()
        }
        norm = _global_norm(list(uphill.values()))
        for p, direction in uphill.items():
            group, length = groups[p], norm.to(direction.device)
            rho = -group["rho"] if group.get("maximize") else group["rho"]
            # At a stationary point 0 / 0: there is no uphill, so stay.
            step = torch.where(length > 0, direction * (rho / length), 0.0)
            p.add_(_wide(p).abs() * step if group["adaptive"] else step)
        return {}

    @torch.no_grad()
    def _update(self) -> None:
        self._aside.put_back()
        for p in self._provisional:
            self.state.pop(p, None)
        self._provisional = set()
        # The base looks at .grad alone, and one that no pass left may be from long ago.
        with _gradients_only(self._mean_gradients(), self._all()):
            self.base_optimizer.step()

    @torch.no_grad()
    def _create_state(self) -> None:
        """Have the base create state by a step with zero gradients, and take the step back.

        Bases count that step, so the next real one begins with fresh state.
        """
        fresh = [p for p in self._trainable() if not self.state.get(p)]
        if not fresh:
            return
        weights = [p.clone() for p in fresh]
        with _gradients_only({p: torch.zeros_like(p) for p in fresh}, self._all()):
            self.base_optimizer.step()
        for p, weight in zip(fresh, weights, strict=True):
            p.copy_(weight)
        self._provisional = set(fresh)

    def train(self, mode: bool = True) -> None:
        """Pass on to a base that has modes, as schedule-free ones; do nothing for others."""
        if callable(base := getattr(self.base_optimizer, "train", None)):
            base(mode)

    def eval(self) -> None:
        """Pass on to a base that has modes, as schedule-free ones; do nothing for others."""
        if callable(base := getattr(self.base_optimizer, "eval", None)):
            base()

    # -------------------------------------------------------------- groups and state

    def _checked_options(self, group: dict[str, Any]) -> dict[str, Any]:
        return options.of_sam(group)

    def _append_group(self, param_group: dict[str, Any]) -> None:
        shared = self.param_groups is self.base_optimizer.param_groups
        (self.base_optimizer.add_param_group if shared else super()._append_group)(param_group)

    def _share(self) -> None:
        """Give the base this object's groups and state, and let it complete them."""
        for group in self.param_groups:
            group.setdefault("rho", self.defaults["rho"])
            group.setdefault("adaptive", self.defaults["adaptive"])
        self.base_optimizer.__setstate__({"state": self.state, "param_groups": self.param_groups})

    def _require_fitting(self, state_dict: dict[str, Any]) -> None:
        """Take the state of a SAM, or of its base alone."""
        for number, group in enumerate(state_dict["param_groups"]):
            if "num_data" in group:
                raise ValueError(
                    f"state_dict: parameter group {number} is one of BSAM: must come from a SAM or "
                    "its base; load it into the optimizer that made it."
                )

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "base_optimizer": self.base_optimizer}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._provisional = set()
        self._share()

    def _all(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]


@contextmanager
def _gradients_only(
    gradients: dict[Tensor, Tensor], params: list[Tensor]
) -> Generator[None, None, None]:
    """Have these gradients and no others on params inside, and what was there after."""
    aside = [p.grad for p in params]
    for p in params:
        p.grad = gradients.get(p)
    try:
        yield
    finally:
        for p, gradient in zip(params, aside, strict=True):
            p.grad = gradient


def _global_norm(tensors: list[Tensor]) -> Tensor:
    """The 2-norm of all elements; in float64, where squares of float32 cannot overflow."""
    if not tensors:
        return torch.zeros(())
    return norms(tensors, 2.0, widest_dtype(tensors[0].device)).norm()


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(state_dtype(tensor))


def _require_usable(base_optimizer: Any) -> None:
    name = getattr(base_optimizer, "__name__", repr(base_optimizer))
    what_to_do = "pass a class such as torch.optim.SGD and its options as keyword arguments"
    if isinstance(base_optimizer, torch.optim.Optimizer):
        name = f"<instance of {type(base_optimizer).__name__}>"
        raise TypeError(f"base_optimizer={name}: must be a class, not an instance; {what_to_do}.")
    if not callable(base_optimizer):
        raise TypeError(f"base_optimizer={name}: must be an optimizer class; {what_to_do}.")
    needs_closure = (torch.optim.LBFGS, TwoPassOptimizer)
    if isinstance(base_optimizer, type) and issubclass(base_optimizer, needs_closure):
        raise TypeError(
            f"base_optimizer={name}: must make its step from one gradient, without a closure; "
            f"{what_to_do}."
        )
