"""BSAM: sharpness-aware steps that learn a Gaussian posterior."""

from typing import Any

from torch import Tensor, nn

from bsam import gaussian, naming, options
from bsam.diagnostics import Diagnostics, diagnose
from bsam.posterior import GaussianPosterior
from bsam.steps import LearnedVariances


class BSAM(LearnedVariances):
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
        compiled: True runs the arithmetic by kernels compiled at first use (float32 results of a
            step within 1e-6 of the others): for a CPU under Linux C++ (float32, float64 and
            bfloat16), elsewhere through :func:`torch.compile`. It needs a C++ compiler; where there
            is none it goes on without, with one warning.
        capturable: True lets whole steps be captured in a CUDA graph: counters live on the device,
            gradients are not looked at for infinities, and lr may be a tensor there.
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
        >>> posterior = optimizer.posterior(model)
        >>> posterior.variance["weight"].shape
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
        capturable: bool = False,
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
            "capturable": capturable,
        }
        defaults |= options.of_bsam(defaults)
        defaults |= {"seed": options.seed(seed), "calls": 0}
        super().__init__(params, defaults)

    def posterior(self, model: nn.Module) -> GaussianPosterior:
        r"""Return the posterior :math:`N(\omega, 1/(N s))` over a model's weights, as a copy.

        Random are the model's parameters that this optimizer trains; those that it does not have,
        or that are frozen, are fixed at their values.

        Args:
            model: the module whose parameters the optimizer has; compiled or wrapped or not.

        Raises:
            RuntimeError: inside a context or between the two.
            TypeError: if model is not a module.
            ValueError: if the optimizer trains none of the model's parameters, num_data is infinite
                (the posterior is then a point), or weights are not finite.

        Example:
            >>> import torch, bsam
            >>> model = torch.nn.Linear(2, 1)
            >>> optimizer = bsam.BSAM(model.parameters(), lr=0.1, num_data=50)
            >>> optimizer.posterior(model).variance["bias"]  # no step yet: 1 / (50 s_init)
            tensor([0.0200])
        """
        self._require_settled("posterior()")
        naming.require_module(model)
        self._create_state()
        groups = {p: group for group in self.param_groups for p in group["params"]}
        mean = naming.own_parameters(model)
        random = {name: p for name, p in mean.items() if p in groups and p.requires_grad}
        if not random:
            raise ValueError(
                "model: this optimizer trains none of its parameters: must be the module whose "
                "parameters it was given, not a copy, and not frozen."
            )
        own = {name: groups[p] for name, p in random.items()}
        if any(group["num_data"] == float("inf") for group in own.values()):
            raise ValueError(
                "num_data=inf: must be finite for a posterior, which is a point without noise; use "
                "the model itself, for example predict(model, None, inputs, num_samples=0)."
            )
        num_data = {name: group["num_data"] for name, group in own.items()}
        return GaussianPosterior(
            mean,
            {n: gaussian.precision(self.state[p]["s"], num_data[n]) for n, p in random.items()},
            num_data=num_data,
            weight_decay={name: group["weight_decay"] for name, group in own.items()},
            buffers=naming.own_buffers(model),
        )

    def diagnostics(self, *, tolerance: float = 0.01) -> Diagnostics:
        """Return what the run has done with s, by parameter and in total; ``print`` shows a table.

        ``unlearned`` is the share of s that is where it would be had all gradients been zero. It is
        large in a run too short to learn variances (``at_start``), and where gradients are so small
        that damping, not the data, sets them (``at_floor``).

        Args:
            tolerance: how far from a value, relative to it, s still counts as being there; >= 0.

        Returns:
            ``parameters``, a tuple with an entry for each trainable one, and ``total``.

        Raises:
            RuntimeError: inside a context or between the two.
            ValueError, TypeError: if tolerance is not a number of at least 0.

        Example:
            >>> import torch, bsam
            >>> model = torch.nn.Linear(2, 1)
            >>> optimizer = bsam.BSAM(model.named_parameters(), lr=0.1, num_data=50)
            >>> total = optimizer.diagnostics().total
            >>> total.at_start, total.at_floor  # no step yet
            (1.0, 0.0)
        """
        self._require_settled("diagnostics()")
        advice = "0.01 counts what is within 1 %"
        tolerance = options.real("tolerance", tolerance, at_least=0.0, advice=advice)
        self._create_state()
        return diagnose(
            (
                (self._label(p).strip("'"), p, self.state[p], group)
                for group in self.param_groups
                for p in group["params"]
                if p.requires_grad
            ),
            tolerance,
        )
