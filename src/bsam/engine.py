"""The two gradients of a step: one engine, three doors, and what ``.grad`` means between them.

A sharpness-aware step takes two gradients. Whoever takes them, a closure, two contexts or a
trainer that owns the loop, goes through :class:`TwoPassOptimizer`: it moves the weights, puts them
back, sets ``.grad`` aside, averages over sub-batches and refuses what would be silently wrong.
Where the weights move to, and what a step makes of the gradients, is the subclass'.
"""

from abc import abstractmethod
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bsam import gradients as checks
from bsam import options, parameters
from bsam.closures import Closure, as_list, loss_of, mean_loss
from bsam.gradients import Gradients, present

_FINISH = (
    "finish the sub-batch with `with optimizer.perturbed(): backward`, or discard it with "
    "zero_grad()."
)


class _OpenPair(NamedTuple):
    """A sub-batch whose first gradient is taken and whose second is still to come."""

    gradients: Gradients
    weight: float | None


class TwoPassOptimizer(torch.optim.Optimizer):
    """What :class:`bsam.BSAM` and :class:`bsam.SAM` share; a subclass says where to go."""

    _sample_is_mean = False  # True: the first gradient is taken there, so nothing need be copied
    _loading: dict[str, Any] | None = None  # the state dict, while torch loads it

    def __init__(self, params: Any, defaults: dict[str, Any]) -> None:
        self._phase = "mean"
        self._discard()
        super().__init__(parameters.require_tensors(params), defaults)

    # -------------------------------------------------------------- what a subclass defines

    @abstractmethod
    def _to_sample(self, params: list[Tensor]) -> None:
        """Move the weights from the mean to where the first gradient is taken."""

    @abstractmethod
    def _to_perturbation(self, gradients: Gradients) -> Gradients:
        """Move the weights from the mean uphill; return what to record of the first gradients."""

    def _record(self, record: Gradients, share: float) -> None:
        """Fold what ``_to_perturbation`` returned into the means over sub-batches."""

    @abstractmethod
    def _update(self) -> None:
        """Make the step out of ``.grad`` and what was recorded."""

    @abstractmethod
    def _create_state(self) -> None:
        """Create the state that is missing; change nothing else."""

    @abstractmethod
    def _checked_options(self, group: dict[str, Any]) -> dict[str, Any]:
        """Return the options of a group as plain values, or raise for one that is not allowed."""

    @abstractmethod
    def _require_fitting(self, state_dict: dict[str, Any]) -> None:
        """Raise ValueError for a state that is not this optimizer's."""

    # -------------------------------------------------------------- the two contexts

    @property
    def phase(self) -> str:
        """Where the weights are: ``"mean"``, ``"sampled"`` or ``"perturbed"``."""
        return self._phase

    @contextmanager
    def sampled(
        self, *, weight: float | None = None, loss_scale: float = 1.0
    ) -> Generator[None, None, None]:
        """Take the first gradient of a sub-batch: forward and backward go inside.

        On entry ``.grad`` is set aside and the weights move; on exit, however it comes about, the
        weights are bit for bit the mean again and ``.grad`` is what it was.

        Args:
            weight: weight of this sub-batch in the means over sub-batches, for example its number
                of examples; positive. None counts as 1.
            loss_scale: what the loss was divided by, where a trainer divides it by the number of
                micro-batches; positive.

        Raises:
            RuntimeError: inside another context or straight after another ``sampled()``; for a
                gradient that is sparse or not finite.
            ValueError, TypeError: if weight or loss_scale is not a positive number.
        """
        self._require_mean("sampled()")
        if self._open is not None:
            raise RuntimeError(f"sampled() came twice without perturbed() between: {_FINISH}")
        options.check_factors(weight, loss_scale)
        self._discard_if_cleared()
        params = self._trainable()
        with self._moved("sampled", params, copy=not self._sample_is_mean):
            self._to_sample(params)
            torch.clear_autocast_cache()
            yield
            gradients = self._collect(params, loss_scale)
        self._open = _OpenPair(gradients, weight)

    @contextmanager
    def perturbed(
        self, *, weight: float | None = None, loss_scale: float = 1.0
    ) -> Generator[None, None, None]:
        """Take the second gradient of the sub-batch: forward and backward go inside, once more.

        After it ``.grad`` is the mean of the second gradients over the sub-batches so far, there to
        be clipped; ``step()`` reads it.

        Args:
            weight: as for :meth:`sampled`; given to one of the two, it holds for both.
            loss_scale: as for :meth:`sampled`.

        Raises:
            RuntimeError: without a ``sampled()`` before; for a gradient that is sparse or not
                finite. Only this sub-batch is lost then.
            ValueError, TypeError: if weight or loss_scale is not a positive number, or if weight
                differs from that of ``sampled()``.
        """
        self._require_mean("perturbed()")
        if self._open is None:
            raise RuntimeError(
                "perturbed() came before sampled(), or after a zero_grad() that discarded it: take "
                "the first gradient of this sub-batch with `with optimizer.sampled(): backward`, "
                "and zero no gradients between the two."
            )
        options.check_factors(weight, loss_scale)
        pair_weight = options.agreed_weight(self._open.weight, weight)
        first = self._open.gradients
        self._open = None  # used up, even if what follows fails
        params, seen = list(first), set(present(first))
        with self._moved("perturbed", params):
            record = self._to_perturbation(first)
            del first  # its memory is what the second gradients will need
            torch.clear_autocast_cache()
            yield
            second = self._collect(params, loss_scale)
        for p in seen - present(second).keys():
            second[p] = torch.zeros_like(p)
        weight_sum = self._weight_sum + pair_weight
        self._merge(second, pair_weight / weight_sum)
        self._record(record, pair_weight / weight_sum)
        self._weight_sum = weight_sum
        self._sub_batches += 1

    @contextmanager
    def _moved(
        self, phase: str, params: list[Tensor], copy: bool = True
    ) -> Generator[None, None, None]:
        """Have ``.grad`` empty inside; put it and the weights back, however it ends.

        Whoever moves weights clears autocast's cache: under an autocast that encloses the whole
        step it would go on to use casts of the weights as they were before.
        """
        means = [p.detach().clone() for p in params] if copy else []
        outside = [p.grad for p in params]
        if self._sub_batches == 1 and phase == "sampled":
            # The mean so far is still the tensor that the first backward left. Its memory may not
            # be ours to keep: DDP's gradients are views of buckets that each backward overwrites.
            outside = [None if gradient is None else gradient.clone() for gradient in outside]
        for p in params:
            p.grad = None
        self._phase = phase
        try:
            yield
        finally:
            try:
                with torch.no_grad():
                    for p, mean in zip(params, means, strict=False):
                        p.copy_(mean)
            finally:
                for p, gradient in zip(params, outside, strict=True):
                    p.grad = gradient
                torch.clear_autocast_cache()
                self._phase = "mean"

    def _collect(self, params: list[Tensor], loss_scale: float) -> Gradients:
        gradients = {p: None if p.grad is None else p.grad.detach() for p in params}
        if loss_scale != 1.0:
            gradients = {p: None if g is None else g * loss_scale for p, g in gradients.items()}
        given = present(gradients)
        if params and not given:
            self._without_gradient = self._phase
        checks.require_dense(given, self._label)
        checks.require_finite(given, self._phase, self._label)
        return gradients

    @torch.no_grad()
    def _merge(self, gradients: Gradients, share: float) -> None:
        for p, gradient in gradients.items():
            so_far = p.grad if p in self._averaged else None  # else it is from outside
            p.grad = checks.running_mean(so_far, gradient, share)
            if p.grad is not None:
                self._averaged.add(p)

    def _mean_gradients(self) -> dict[Tensor, Tensor]:
        """What the step is made of: parameters that took part and still want to be moved."""
        return present({p: p.grad for p in self._trainable() if p in self._averaged})

    # -------------------------------------------------------------- the step

    @torch.no_grad()
    def step(self, closure: Closure | Iterable[Closure] | None = None) -> Any:
        """Make one step.

        Args:
            closure: computes the loss of a batch (its mean over the examples), calls backward or
                sets ``.grad`` itself, and returns the loss; it is called twice. It need not zero
                the gradients. A list of m closures makes m sub-batches (m-sharpness). None uses
                what the contexts recorded.

        Returns:
            The mean loss at the perturbed points as a detached 0-d tensor; None without closures
            or if a closure returned None.

        Raises:
            RuntimeError: inside a context, between the two, with closures while pairs are
                recorded, for gradients that no context recorded, and for gradients that are
                sparse or not finite; weights and state are then as before the step.
            TypeError, ValueError: for closures that cannot be called, none in the list, or a loss
                that is not one number.
        """
        self._require_settled("step()")
        if closure is None:
            checks.point_out_silence(self._without_gradient)
            self._step_recorded()
            return None
        closures = as_list(closure)
        self._discard_if_cleared()
        if self._weight_sum:
            raise RuntimeError(
                "step(closure) came while sub-batches recorded by the contexts are waiting: call "
                "step() to use them or zero_grad() to discard them first."
            )
        for p in self._trainable():
            p.grad = None  # left from the last step; keeping it would cost a copy at the peak
        try:
            loss = mean_loss([self._pair(each) for each in closures])
            checks.point_out_silence(self._without_gradient)
            self._commit()
        except BaseException:
            for p in self._averaged:
                p.grad = None
            raise
        finally:
            self._discard()
        return loss

    def _pair(self, closure: Closure) -> Tensor | None:
        with self.sampled(), torch.enable_grad():
            closure()
        with self.perturbed(), torch.enable_grad():
            return loss_of(closure())

    def _step_recorded(self) -> None:
        self._discard_if_cleared()
        if not self._weight_sum:
            checks.require_zero(present({p: p.grad for p in self._trainable()}), self._label)
            self._create_state()
            return
        try:
            # Whoever clips or unscales has had its hands on the gradients since perturbed().
            checks.require_finite(self._mean_gradients(), "perturbed", self._label)
            self._commit()
        finally:
            self._discard()

    def _commit(self) -> None:
        self._update()
        torch.clear_autocast_cache()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients; outside the contexts also discard what they recorded.

        Args:
            set_to_none: as in :meth:`torch.optim.Optimizer.zero_grad`.
        """
        if self._phase == "mean":
            self._discard()
        super().zero_grad(set_to_none)

    def train(self, mode: bool = True) -> None:
        """Do nothing; for loops that put every optimizer into training mode."""

    def eval(self) -> None:
        """Do nothing; for loops that put every optimizer into evaluation mode."""

    # -------------------------------------------------------------- groups and state

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, as :meth:`torch.optim.Optimizer.add_param_group`.

        A parameter that stands in the group twice (tied weights) counts once.

        Raises:
            RuntimeError: inside a context or between the two.
            TypeError: for complex or sparse parameters.
            ValueError, TypeError: for an option that is not allowed.
        """
        self._require_settled("add_param_group()")
        if isinstance(param_group, dict):
            number = len(self.param_groups)
            param_group["params"] = parameters.distinct(param_group["params"], number)
            try:
                checked = self._checked_options({**self.defaults, **param_group})
            except (TypeError, ValueError) as error:
                where = f" (parameter group {number})" if number else ""
                raise type(error)(f"{error}{where}") from None
            param_group.update(checked)
        self._append_group(param_group)

    def _append_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """Return the state, as :meth:`torch.optim.Optimizer.state_dict`.

        Raises:
            RuntimeError: inside a context or between the two.
        """
        self._require_settled("state_dict()")
        return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state, as :meth:`torch.optim.Optimizer.load_state_dict`; recorded pairs are lost.

        Raises:
            RuntimeError: inside a context.
            ValueError, TypeError: if it is not an optimizer's state, or does not fit this one.
        """
        self._require_mean("load_state_dict()")
        options.require_state(state_dict)

        def check(_: Any, after_other_hooks: dict[str, Any]) -> None:
            self._require_fitting(after_other_hooks)
            self._loading = after_other_hooks

        handle = self.register_load_state_dict_pre_hook(check)
        try:
            super().load_state_dict(state_dict)
        finally:
            handle.remove()
            self._loading = None
        self._discard()

    def __getstate__(self) -> dict[str, Any]:
        self._require_settled("pickling or copying")
        return super().__getstate__()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._phase = "mean"
        self._discard()
        super().__setstate__(state)

    # -------------------------------------------------------------- bookkeeping

    def _discard(self) -> None:
        """Forget the sub-batches recorded so far."""
        self._open: _OpenPair | None = None
        self._weight_sum = 0.0
        self._averaged: set[Tensor] = set()  # whose .grad is the mean so far
        self._sub_batches = 0
        self._without_gradient = ""  # the last pass that left none

    def _discard_if_cleared(self) -> None:
        """Forget them too where a trainer ended a skipped step by ``model.zero_grad()``."""
        if self._averaged and all(p.grad is None for p in self._averaged):
            self._discard()

    def _trainable(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"] if p.requires_grad]

    def _label(self, param: Tensor) -> str:
        return parameters.label(self.param_groups, param)

    def _require_mean(self, what: str) -> None:
        if self._phase != "mean":
            raise RuntimeError(
                f"{what} inside `with optimizer.{self._phase}()`: leave that context first."
            )

    def _require_settled(self, what: str) -> None:
        self._require_mean(what)
        if self._open is not None:
            raise RuntimeError(f"{what} between sampled() and perturbed(): {_FINISH}")
