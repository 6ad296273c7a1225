"""The two gradients of a step: one engine, three doors, and what ``.grad`` means between them.

A sharpness-aware step takes two gradients. Whoever takes them, a closure, two contexts or a
trainer that owns the loop, goes through :class:`TwoPassOptimizer`: it moves the weights, puts them
back, sets ``.grad`` aside, averages over sub-batches and refuses what would be silently wrong.
Where the weights move to, and what a step makes of the gradients, is the subclass'.
"""

from abc import abstractmethod
from collections.abc import Generator, Iterable, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bsam import gradients as checks
from bsam import normalization, options, scaling
from bsam.borrowing import Aside
from bsam.closures import Closure, as_list, loss_of, mean_loss
from bsam.gradients import Gradients, present
from bsam.groups import GroupedOptimizer

_FINISH = "finish it with `with optimizer.perturbed(): backward`, or discard it with zero_grad()."


class _OpenPair(NamedTuple):
    """A sub-batch whose first gradient is taken and whose second is still to come."""

    gradients: Gradients
    weight: float | None
    scaler: Any
    scale: Tensor | None
    overflow: bool


class TwoPassOptimizer(GroupedOptimizer):
    """What :class:`bsam.BSAM` and :class:`bsam.SAM` share; a subclass says where to go."""

    _phase = "mean"
    _statistics: normalization.Policies = ()

    # -------------------------------------------------------------- what a subclass defines

    @abstractmethod
    def _to_sample(self, params: list[Tensor]) -> None:
        """Move the weights to where the first gradient is taken; ``_aside`` keeps the mean."""

    @abstractmethod
    def _to_perturbation(self, gradients: Gradients, share: float | None) -> Gradients:
        """Move the weights that have gradients from the mean uphill; ``_aside`` keeps the mean.

        Where ``share`` says what share this sub-batch has in the means over sub-batches, fold into
        them what is to be recorded of the first gradients; else return it.
        """

    def _record(self, record: Gradients, share: float) -> None:
        """Fold what ``_to_perturbation`` returned into means over sub-batches, and empty it."""

    @abstractmethod
    def _update(self) -> None:
        """Make the step, from the mean, out of ``.grad`` and what was recorded."""

    @abstractmethod
    def _create_state(self) -> None:
        """Create the state that is missing; change nothing else."""

    def _room(self, params: list[Tensor]) -> list[Tensor]:
        """Return uninitialized tensors to hold the mean of parameters while they are moved."""
        return [torch.empty_like(p) for p in params]

    def _all_finite(self, gradients: Mapping[Tensor, Tensor]) -> bool:
        """Whether no gradient has NaN or infinity."""
        return checks.all_finite(gradients.values())

    def _looks_at_gradients(self) -> bool:
        """Whether to refuse gradients that are not finite; it waits for the device."""
        return True

    # -------------------------------------------------------------- the two contexts

    @property
    def phase(self) -> str:
        """Where the weights are: ``"mean"``, ``"sampled"`` or ``"perturbed"``."""
        return self._phase

    @contextmanager
    def sampled(
        self, *, weight: float | None = None, loss_scale: float = 1.0, scaler: Any = None
    ) -> Generator[None, None, None]:
        """Take the first gradient of a sub-batch: forward and backward go inside.

        On entry ``.grad`` is set aside and the weights move; on exit, however it comes about, the
        weights are bit for bit the mean again and ``.grad`` is what it was.

        Args:
            weight: weight of this sub-batch in the means over sub-batches, for example its number
                of examples; positive. None counts as 1.
            loss_scale: what the loss was divided by, where a trainer divides it by the number of
                micro-batches; positive.
            scaler: the ``torch.amp.GradScaler`` that scales the loss, for fp16; the gradient is
                divided by its scale, and one that overflowed makes the scaler skip the step.

        Raises:
            RuntimeError: inside another context or straight after another ``sampled()``; for a
                gradient that is sparse or, without a scaler, not finite.
            ValueError, TypeError: if weight or loss_scale is not a positive number, or scaler not a
                scaler.
        """
        self._require_mean("sampled()")
        if self._open is not None:
            raise RuntimeError(f"sampled() came twice without perturbed() between: {_FINISH}")
        options.check_factors(weight, loss_scale)
        scaler = scaling.active(scaler)
        self._discard_if_cleared()
        self._discard_if_skipped()
        if self._weight_sum and scaler is not self._scaler:
            raise RuntimeError(
                "scaler: must be the same in all sub-batches of a step, or in none; their "
                "gradients are averaged, so pass it to every context."
            )
        params = self._trainable()
        with self._moved("sampled", params):
            self._to_sample(params)
            torch.clear_autocast_cache()
            yield
            gradients, overflow = self._collect(params, loss_scale, scaler)
        scale = scaling.scale_of(scaler, params) if scaler else None
        if overflow:
            gradients = dict.fromkeys(params)  # no way uphill: the second pass is at the mean
        elif scale is not None:
            gradients = scaling.unscaled(gradients, scale)
        self._open = _OpenPair(gradients, weight, scaler, scale, overflow)

    @contextmanager
    def perturbed(
        self, *, weight: float | None = None, loss_scale: float = 1.0, scaler: Any = None
    ) -> Generator[None, None, None]:
        """Take the second gradient of the sub-batch: forward and backward go inside, once more.

        After it ``.grad`` is the mean of the second gradients over the sub-batches so far (further
        ones change it in place), there to be clipped; ``step()`` reads it. With a scaler it is
        still scaled, and ``scaler.unscale_`` may come first.

        Args:
            weight: as for :meth:`sampled`; given to one of the two, it holds for both.
            loss_scale: as for :meth:`sampled`.
            scaler: as for :meth:`sampled`, which must have got the same.

        Raises:
            RuntimeError: without a ``sampled()`` before; for a gradient that is sparse or, without
                a scaler, not finite. Only this sub-batch is lost then.
            ValueError, TypeError: if weight or loss_scale is not a positive number, or if weight or
                scaler differs from that of ``sampled()``.
        """
        self._require_mean("perturbed()")
        if self._open is None:
            raise RuntimeError(
                "perturbed() came before sampled(), or after a zero_grad() that discarded it: take "
                "the first gradient of this sub-batch with `with optimizer.sampled(): backward`, "
                "and zero no gradients between the two."
            )
        options.check_factors(weight, loss_scale)
        first, first_weight, used, scale, overflow = self._open
        scaling.require_same(used, scaling.active(scaler))
        pair_weight = options.agreed_weight(first_weight, weight)
        self._open = None  # used up, even if what follows fails
        params, seen = list(first), set(present(first))
        share = pair_weight / (self._weight_sum + pair_weight)
        with self._moved("perturbed", params), ExitStack() as hooks:
            # In a step of closures a failure loses all of it, so means need not wait.
            record = self._to_perturbation(first, share if self._in_closures else None)
            del first  # its memory is what the second gradients will need
            torch.clear_autocast_cache()
            for p in params if overflow else ():
                # Before gradients are summed over processes: all of them must skip the step.
                hooks.callback(p.register_hook(scaling.overflow_of).remove)
            yield
            second, overflow_now = self._collect(params, loss_scale, used)
        if overflow or overflow_now:
            second |= scaling.overflowed(present(second))
        second |= {p: torch.zeros_like(p) for p in seen - present(second).keys()}
        self._merge(second, share)
        self._record(record, share)
        self._weight_sum += pair_weight
        self._sub_batches += 1
        self._scaler, self._scale = used, scale

    @contextmanager
    def _moved(self, phase: str, params: list[Tensor]) -> Generator[None, None, None]:
        """Have ``.grad`` empty inside; put it and the weights back, however it ends.

        In a step of closures, where no one looks between the passes, the weights go straight from
        one place to the next, and the step puts them back.
        """
        outside = [p.grad for p in params]
        if self._sub_batches == 1 and phase == "sampled":
            # The mean so far is still the tensor that the first backward left. Its memory may not
            # be ours to keep: DDP's gradients are views of buckets that each backward overwrites.
            outside = [None if gradient is None else gradient.clone() for gradient in outside]
            self._averaged |= {p: outside[i] for i, p in enumerate(params) if p in self._averaged}
        with ExitStack() as stack:
            if not self._in_closures:
                stack.callback(self._return_to_mean)
            for model in normalization.frozen_during(phase, self._statistics):
                stack.enter_context(normalization.frozen_statistics(model))
            try:
                self._phase = phase
                for p in params:
                    p.grad = None
                yield
            finally:
                self._phase = "mean"
                for p, gradient in zip(params, outside, strict=True):
                    p.grad = gradient

    def _return_to_mean(self) -> None:
        self._aside.put_back()
        self._aside.forget()
        self._phase = "mean"

    def _collect(
        self, params: list[Tensor], loss_scale: float, scaler: Any
    ) -> tuple[Gradients, bool]:
        """Return what a pass left in ``.grad``, and whether it is for the scaler to skip."""
        gradients = {p: checks.left_on(p) for p in params}
        if loss_scale != 1.0:
            gradients = {p: None if g is None else g * loss_scale for p, g in gradients.items()}
        given = present(gradients)
        if params and not given:
            self._without_gradient = self._phase
        checks.require_dense(given, self._label)
        if scaler:
            return gradients, not self._all_finite(given)
        if self._looks_at_gradients():
            checks.require_finite(given, self._phase, self._label, self._all_finite)
        return gradients, False

    @torch.no_grad()
    def _merge(self, gradients: Gradients, share: float) -> None:
        for p, gradient in gradients.items():
            so_far = p.grad if p in self._averaged else None  # else it is from outside
            ours = self._averaged.get(p) is so_far
            p.grad = checks.running_mean(so_far, gradient, share, in_place=ours)
            if p.grad is not None:
                self._averaged[p] = None if so_far is None else p.grad

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
            torch.clear_autocast_cache()
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
            self._in_closures = len(closures)
            loss = mean_loss([self._pair(each) for each in closures])
            checks.point_out_silence(self._without_gradient)
            self._update()
        except BaseException:
            for p in self._averaged:
                p.grad = None
            self._return_to_mean()
            raise
        finally:
            self._discard()
            torch.clear_autocast_cache()
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
        if self._scaler:
            scaling.require_unscaled(self._scaler)
        else:
            scaling.require_no_scaler()
        try:
            # Whoever clips or unscales has had its hands on the gradients since perturbed().
            if self._looks_at_gradients():
                recorded = self._mean_gradients()
                checks.require_finite(recorded, "perturbed", self._label, self._all_finite)
            self._update()
        finally:
            self._discard()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients; outside the contexts also discard what they recorded.

        Args:
            set_to_none: as in :meth:`torch.optim.Optimizer.zero_grad`.
        """
        if self._phase == "mean":
            self._discard()
        super().zero_grad(set_to_none)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_statistics": self._statistics}

    # -------------------------------------------------------------- running statistics

    def update_statistics(self, model: nn.Module, *, during: str) -> None:
        """Say which passes move the running statistics of BatchNorm and its kin.

        It holds for every way to make a step. Layers normalize by their batch in any case, and
        passes outside of steps move statistics as usual. Not part of a checkpoint: say it again
        after a resume.

        Args:
            model: the model whose layers are meant; said again for the same one, the last counts.
            during: ``"both"`` as at the start (the authors' code), ``"sampled"``, ``"perturbed"``,
                or ``"none"``, for which :func:`bsam.normalization.refresh_statistics` makes them
                after training.

        Raises:
            RuntimeError: inside a context.
            ValueError, TypeError: for another policy, or what is not a model.
        """
        self._require_mean("update_statistics()")
        self._statistics = normalization.with_policy(self._statistics, model, during)

    # -------------------------------------------------------------- bookkeeping

    def _discard(self) -> None:
        """Forget the sub-batches recorded so far."""
        self._open: _OpenPair | None = None
        self._weight_sum = 0.0
        self._averaged: dict[Tensor, Tensor | None] = {}  # whose .grad is the mean; it, if ours
        self._sub_batches = 0
        self._in_closures = 0  # how many sub-batches, all of them closures, the step has
        self._aside = Aside()  # the mean, while the weights are elsewhere
        self._without_gradient = ""  # the last pass that left none
        self._scaler: Any = None  # whose scale the mean so far has
        self._scale: Tensor | None = None

    def _discard_if_cleared(self) -> None:
        """Forget them too where a trainer ended a skipped step by ``model.zero_grad()``."""
        if self._averaged and all(p.grad is None for p in self._averaged):
            self._discard()

    def _discard_if_skipped(self) -> None:
        """Forget them too where a scaler has skipped the step: it has changed its scale since."""
        if not self._weight_sum or self._scale is None:
            return
        if scaling.scale_of(self._scaler, [self._scale]) != self._scale:
            self._discard()

    def _require_mean(self, what: str) -> None:
        if self._phase != "mean":
            raise RuntimeError(
                f"{what} inside `with optimizer.{self._phase}()`: leave that context first."
            )

    def _require_settled(self, what: str) -> None:
        self._require_mean(what)
        if self._open is not None:
            raise RuntimeError(f"{what} between sampled() and perturbed(): {_FINISH}")
