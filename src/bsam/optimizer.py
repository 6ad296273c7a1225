"""BSAM: sharpness-aware steps that learn a Gaussian posterior."""

import functools
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from bsam import algorithm, options
from bsam.engine import TwoPassOptimizer
from bsam.gradients import Gradients, present, running_mean
from bsam.noise import standard_normal
from bsam.parameters import state_dtype


class BSAM(TwoPassOptimizer):
    r"""Bayes as sharpness-aware minimization: Adam-like steps that learn variances with weights.

    .. math::
        \theta_j &= \omega + e_j / \sqrt{N s}, \quad e_j \sim N(0, I)
            & g_j &= \nabla \ell_j(\theta_j) \\
        \epsilon_j &= \rho\, g_j / s
            & q_j &= \nabla \ell_j(\omega + \epsilon_j) \\
        g_m &\leftarrow \beta_1 g_m + (1-\beta_1)(\bar q + \delta \omega) \\
        s &\leftarrow \beta_2 s + (1-\beta_2)(\overline{\sqrt{s}\,|g|} + \delta + \gamma) \\
        \omega &\leftarrow \omega - \alpha\, g_m / s

    with :math:`\ell_j` the *mean* loss over sub-batch j, bars for means over the sub-batches, and
    no bias correction. The posterior is :math:`N(\omega, 1/(N s))`, element by element.

    Each step takes two gradients, in one of three ways: ``step(closure)``, the contexts
    :meth:`sampled` and :meth:`perturbed` before ``step()``, or these contexts around the backward
    passes of a trainer that calls ``step()`` itself.

    Args:
        params: parameters, groups or ``model.named_parameters()`` (errors then give names).
        lr: :math:`\alpha \ge 0`, a float or a 0-d tensor. The mean moves by lr / s times the
            averaged gradient. While s is near ``s_init`` = 1, a first guess is ten times the rate
            of SGD with momentum 0.9; s falls towards ``damping + weight_decay``.
        num_data: N > 0, effective number of training examples (not of batches): ``len(train_set)``,
            more with augmentation. Infinity means no noise.
        rho: :math:`\rho \ge 0`, size of the perturbation.
        betas: :math:`(\beta_1, \beta_2)` in :math:`[0, 1) \times [0, 1]`.
        weight_decay: :math:`\delta \ge 0`, prior precision / N.
        damping: :math:`\gamma \ge 0`; weight_decay + damping must be positive.
        s_init: s at the start, > 0.
        order: ``"precision_first"`` moves the mean by the new s (the paper's listing);
            ``"mean_first"`` by the old one (the authors' released code).
        foreach: True works on lists of tensors, False on one tensor at a time (less memory, the
            same numbers); None chooses by device.
        compiled: True runs the arithmetic through :func:`torch.compile` (float32 results within
            1e-6 of the others).
        seed: seed of the noise, in ``[0, 2**63)``; None draws one from torch's generator.

    State for each parameter p in ``state[p]``: ``exp_avg`` (:math:`g_m`) and ``s``, of p's shape
    and float32 (float64 for float64 parameters), and ``step``, its number of updates.
    ``param_groups`` hold the hyperparameters, the seed and ``calls``, the number of updates that
    drives the noise, so that a run resumed from ``state_dict`` goes on bit for bit.

    Raises:
        ValueError, TypeError: for a value that is not allowed; the message says what is.

    References:
        T. Moellenhoff and M. E. Khan, "SAM as an Optimal Relaxation of Bayes", ICLR 2023,
        Algorithm 1.

    Example:
        >>> import torch, bsam
        >>> _ = torch.manual_seed(0)
        >>> x = torch.randn(64, 3)
        >>> y = x @ torch.tensor([[1.0], [-2.0], [0.5]])
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = bsam.BSAM(model.parameters(), lr=0.1, num_data=len(x), seed=0)
        >>> def closure():
        ...     loss = torch.nn.functional.mse_loss(model(x), y)
        ...     loss.backward()
        ...     return loss
        >>> losses = [optimizer.step(closure).item() for _ in range(100)]
        >>> losses[-1] < 0.01 * losses[0]
        True
        >>> variance = 1 / (64 * optimizer.state[model.weight]["s"])
        >>> variance.shape
        torch.Size([1, 3])
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor,
        *,
        num_data: float,
        rho: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 1e-4,
        damping: float = 0.1,
        s_init: float = 1.0,
        order: str = "precision_first",
        foreach: bool | None = None,
        compiled: bool = False,
        seed: int | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "num_data": num_data,
            "rho": rho,
            "betas": betas,
            "weight_decay": weight_decay,
            "damping": damping,
            "s_init": s_init,
            "order": order,
            "foreach": foreach,
            "compiled": compiled,
        }
        defaults |= options.of_bsam(defaults)
        defaults |= {"seed": options.seed(seed), "calls": 0}
        super().__init__(params, defaults)

    def draw_noise(self, params: list[Tensor]) -> list[Tensor]:
        """Make the standard normal noise of one sub-batch.

        It is called once for each sub-batch. A subclass may override it, to replay recorded draws
        or to draw antithetic pairs. This one is a pure function of (seed, call, sub-batch,
        element), where an element's number is its position in all parameters of all groups laid
        end to end: neither freezing some nor adding a group changes the noise of the others.

        Args:
            params: the parameters that require gradients, in group order.

        Returns:
            One tensor for each, of its shape, on its device, in the dtype of its state.
        """
        first = self._first_elements()
        noise: list[Tensor] = []
        for run in _runs(params, first):
            address = self.param_groups[0]
            flat = standard_normal(
                first[run[0]],
                sum(p.numel() for p in run),
                seed=address["seed"],
                call=address["calls"],
                sub_batch=self._sub_batches,
                dtype=state_dtype(run[0]),
                device=run[0].device,
            )
            pieces = flat.split([p.numel() for p in run])
            noise += [piece.view(p.shape) for piece, p in zip(pieces, run, strict=True)]
        return noise

    # -------------------------------------------------------------- the lines of the algorithm

    @torch.no_grad()
    def _to_sample(self, params: list[Tensor]) -> None:
        self._create_state()
        noise = dict(zip(params, self._checked_noise(params), strict=True))
        for group, bundle in self._bundles(params):
            s = self._states(bundle, "s")
            draws = [noise[p] for p in bundle]
            _lines(group["compiled"]).sample(bundle, draws, s, num_data=group["num_data"])

    @torch.no_grad()
    def _to_perturbation(self, gradients: Gradients) -> Gradients:
        record: Gradients = dict.fromkeys(gradients)
        given = present(gradients)
        for group, bundle in self._bundles(list(given)):
            lines = _lines(group["compiled"])
            s = self._states(bundle, "s")
            first = _in_state_dtype([given[p] for p in bundle])
            lines.perturb(bundle, first, s, rho=group["rho"])
            record.update(zip(bundle, lines.gradient_scales(first, s), strict=True))
        return record

    @torch.no_grad()
    def _record(self, record: Gradients, share: float) -> None:
        for p, scale in record.items():
            self._scales[p] = running_mean(self._scales.get(p), scale, share)

    @torch.no_grad()
    def _update(self) -> None:
        gradients = self._mean_gradients()
        for group, bundle in self._bundles(list(gradients)):
            s = self._states(bundle, "s")
            scales = [self._scales.get(p) for p in bundle]
            _lines(group["compiled"]).update(
                bundle,
                self._states(bundle, "exp_avg"),
                s,
                _in_state_dtype([gradients[p] for p in bundle]),
                [torch.zeros_like(b) if a is None else a for a, b in zip(scales, s, strict=True)],
                lr=_learning_rate(group),
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                weight_decay=group["weight_decay"],
                damping=group["damping"],
                order=group["order"],
            )
            torch._foreach_add_(self._states(bundle, "step"), 1.0)
        for group in self.param_groups:
            group["calls"] += 1

    # -------------------------------------------------------------- state and groups

    def _discard(self) -> None:
        super()._discard()
        self._scales: Gradients = {}

    @torch.no_grad()
    def _create_state(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if not p.requires_grad:
                    continue
                state, dtype = self.state[p], state_dtype(p)
                if not state:
                    state["step"] = torch.tensor(0.0)
                    state["exp_avg"] = torch.zeros_like(p, dtype=dtype)
                    state["s"] = torch.full_like(p, group["s_init"], dtype=dtype)
                elif (state["s"].dtype, state["s"].device) != (dtype, p.device):
                    # The model was moved or cast since: the state goes with it.
                    for name in ("exp_avg", "s"):
                        state[name] = state[name].to(device=p.device, dtype=dtype)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if self._loading is None:
            return
        # torch gives state the dtype of the parameter; in bfloat16 s would never move again.
        for number, p in _by_number(self._loading["param_groups"], self.param_groups):
            for name, value in self._loading["state"].get(number, {}).items():
                if name != "step":
                    value = value.to(device=p.device, dtype=state_dtype(p))
                self.state[p][name] = value.clone()

    def _require_fitting(self, state_dict: dict[str, Any]) -> None:
        saved = state_dict["param_groups"]
        for number, group in enumerate(saved):
            if missing := sorted(self.defaults.keys() - group.keys() - {"differentiable"}):
                raise ValueError(
                    f"state_dict: must come from BSAM.state_dict(), but its parameter group "
                    f"{number} lacks {', '.join(missing)}; load it into the optimizer that made it."
                )
            options.of_bsam(group)
            options.seed(group["seed"])
            options.integer("calls", group["calls"], advice="it counts the updates")
        sizes = [len(group["params"]) for group in saved]
        if sizes != [len(group["params"]) for group in self.param_groups]:
            return  # torch refuses that, with its usual words
        for number, p in _by_number(saved, self.param_groups):
            state = state_dict["state"].get(number, {})
            if state and (missing := sorted({"step", "exp_avg", "s"} - state.keys())):
                raise ValueError(
                    f"state_dict: the state of parameter {self._label(p)} lacks "
                    f"{', '.join(missing)}; load what BSAM.state_dict() gave."
                )
            for name in ("exp_avg", "s"):
                value = state.get(name, p)
                if value.shape != p.shape:
                    raise ValueError(
                        f"state_dict: {name} of parameter {self._label(p)} has shape "
                        f"{tuple(value.shape)}: must be {tuple(p.shape)}; it is of another model."
                    )

    def _checked_options(self, group: dict[str, Any]) -> dict[str, Any]:
        checked = options.of_bsam(group) | {"seed": options.seed(group["seed"])}
        if self.param_groups:
            first = self.param_groups[0]
            if group["seed"] not in (self.defaults["seed"], first["seed"]):
                raise ValueError(
                    f"seed={group['seed']!r}: must be that of the other groups, {first['seed']}; "
                    "one stream serves all, so leave it out."
                )
            checked |= {"seed": first["seed"], "calls": first["calls"]}
        return checked

    def _first_elements(self) -> dict[Tensor, int]:
        """Number each parameter's first element, all parameters laid end to end."""
        first, end = {}, 0
        for group in self.param_groups:
            for p in group["params"]:
                first[p] = end
                end += p.numel()
        return first

    def _checked_noise(self, params: list[Tensor]) -> list[Tensor]:
        noise = list(self.draw_noise(params))
        shapes = [tuple(each.shape) for each in noise]
        wanted = [tuple(p.shape) for p in params]
        if shapes != wanted:
            raise ValueError(
                f"draw_noise() returned tensors of shapes {shapes}: must be {wanted}; return one "
                "standard normal tensor for each parameter it was given, in their order."
            )
        return noise

    def _states(self, params: list[Tensor], name: str) -> list[Tensor]:
        return [self.state[p][name] for p in params]

    def _bundles(self, params: list[Tensor]) -> Iterator[tuple[dict[str, Any], list[Tensor]]]:
        """Yield (group, parameters to treat in one call of the list functions)."""
        chosen = set(params)
        for group in self.param_groups:
            kinds: dict[Any, list[Tensor]] = {}
            for p in group["params"]:
                if p in chosen:
                    together = group["compiled"] or _use_foreach(group["foreach"], p)
                    kinds.setdefault((p.device, p.dtype) if together else p, []).append(p)
            for bundle in kinds.values():
                yield group, bundle


def _lines(compiled: bool) -> Any:
    return _compiled_lines() if compiled else algorithm


@functools.cache
def _compiled_lines() -> SimpleNamespace:
    names = ("sample", "perturb", "gradient_scales", "update")
    return SimpleNamespace(**{name: torch.compile(getattr(algorithm, name)) for name in names})


def _learning_rate(group: dict[str, Any]) -> float | Tensor:
    # A compiled function takes a number for a constant: a schedule would compile every step anew.
    as_tensor = group["compiled"] and not isinstance(group["lr"], Tensor)
    return torch.tensor(group["lr"], dtype=torch.float64) if as_tensor else group["lr"]


def _use_foreach(foreach: bool | None, p: Tensor) -> bool:
    # On a CPU a tensor at a time stays in cache; on an accelerator a launch for each costs more.
    return p.device.type != "cpu" if foreach is None else foreach


def _in_state_dtype(tensors: list[Tensor]) -> list[Tensor]:
    return [tensor.to(state_dtype(tensor)) for tensor in tensors]


def _runs(params: list[Tensor], first: dict[Tensor, int]) -> list[list[Tensor]]:
    """Cut params into runs that lie end to end on one device with one dtype of state."""
    runs: list[list[Tensor]] = []
    for p in params:
        last = runs[-1][-1] if runs else None
        if (
            last is not None
            and first[p] == first[last] + last.numel()
            and p.device == last.device
            and state_dtype(p) == state_dtype(last)
        ):
            runs[-1].append(p)
        else:
            runs.append([p])
    return runs


def _by_number(
    saved: list[dict[str, Any]], groups: list[dict[str, Any]]
) -> Iterator[tuple[int, Tensor]]:
    for saved_group, group in zip(saved, groups, strict=True):
        yield from zip(saved_group["params"], group["params"], strict=True)
