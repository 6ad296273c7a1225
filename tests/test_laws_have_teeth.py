"""Faulty optimizers, most of them faults that stand in public code: each must break a law.

A bug that is found in this project becomes one more entry.
"""

import sys
from contextlib import contextmanager

import laws
import pytest
import torch

import bsam
from bsam.gradients import present


class NoiseWithVarianceForDeviation(bsam.BSAM):
    """Noise of standard deviation 1/(N s) instead of 1/sqrt(N s)."""

    def draw_noise(self, params):
        noise = super().draw_noise(params)
        n = self.param_groups[0]["num_data"]
        return [e / (n * self.state[p]["s"]).sqrt() for e, p in zip(noise, params, strict=True)]


class NotRestoring:
    """Mixed into an optimizer: the weights stay where a pass moved them."""

    def _return_to_mean(self):
        self._aside.forget()

    def _update(self):
        self._aside.forget()
        super()._update()


class MeanNotRestored(NotRestoring, bsam.BSAM):
    """The weights stay where the second gradient was taken."""


class NoFinally(bsam.BSAM):
    """An exception inside a context leaves the weights where they were moved."""

    def _return_to_mean(self):
        if sys.exc_info()[0]:
            self._aside.forget()
        super()._return_to_mean()


class GradientTimesDecay(bsam.BSAM):
    """The gradient is multiplied by the weight decay, where decay times weight is to be added."""

    def _update(self):
        for p in self._trainable():
            if p.grad is not None:
                decay = self.param_groups[0]["weight_decay"]
                p.grad = p.grad + decay * p.grad - decay * p.detach()
        super()._update()


class SquaredIncrement(bsam.BSAM):
    """The increment of s is squared."""

    def _update(self):
        for p, scale in self._scales.items():
            self._scales[p] = None if scale is None else scale**2
        super()._update()


class PrecisionFromPerturbedGradient(bsam.BSAM):
    """s is updated with the gradient at the perturbed weights."""

    def _merge(self, gradients, share):
        super()._merge(gradients, share)
        second = present(gradients).items()
        super()._record({p: self.state[p]["s"].sqrt() * g.abs() for p, g in second}, share)

    def _record(self, record, share):
        pass


class NoNoiseOnTheFirstStep(bsam.BSAM):
    """Noise goes to parameters that had a gradient in the last step, so to none in the first."""

    def draw_noise(self, params):
        noise = super().draw_noise(params)
        seen = [self.state[p]["step"] > 0 for p in params]
        return [e if s else torch.zeros_like(e) for e, s in zip(noise, seen, strict=True)]


class MagnitudeOfTheMean(bsam.BSAM):
    """s learns from |mean g| over sub-batches instead of from mean |g|."""

    def _to_perturbation(self, gradients, share):
        signs = {p: g.sign() for p, g in present(gradients).items()}
        record = super()._to_perturbation(gradients, None)
        record = {p: None if a is None else a * signs[p].to(a) for p, a in record.items()}
        if share is None:
            return record
        self._record(record, share)
        return {}

    def _update(self):
        for p, scale in self._scales.items():
            self._scales[p] = None if scale is None else scale.abs()
        super()._update()


class TheOtherOrder(bsam.BSAM):
    """The two last lines of the algorithm are exchanged."""

    def _update(self):
        for group in self.param_groups:
            orders = ("precision_first", "mean_first")
            group["order"] = orders[group["order"] == orders[0]]
        super()._update()
        for group in self.param_groups:
            group["order"] = orders[group["order"] == orders[0]]


class GeneratorNotInCheckpoint(bsam.BSAM):
    """The noise comes from a generator that state_dict does not know."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._generator = torch.Generator().manual_seed(0)

    def draw_noise(self, params):
        return [
            torch.randn(p.shape, generator=self._generator, dtype=self.state[p]["s"].dtype)
            for p in params
        ]


class CallsNotInCheckpoint(bsam.BSAM):
    """A resumed run starts its noise from the beginning."""

    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict)
        for group in self.param_groups:
            group["calls"] = 0


class StepReturnsNone(bsam.BSAM):
    """step(closure) forgets the loss."""

    def step(self, closure=None):
        super().step(closure)


class LossAtTheSample(bsam.BSAM):
    """step(closure) returns the loss of the first pass."""

    def _pair(self, closure):
        losses = []

        def watched():
            losses.append(closure())
            return losses[-1]

        super()._pair(watched)
        return losses[0].detach() if isinstance(losses[0], torch.Tensor) else None


class MessageOfAnotherVariable(bsam.BSAM):
    """The message about lr prints another value."""

    def __init__(self, params, lr, **options):
        if lr < 0:
            raise ValueError(f"lr={options.get('rho')}: must be at least 0")
        super().__init__(params, lr, **options)


class OneDtypeForAll(bsam.BSAM):
    """State and noise are made for the first parameter's kind, and only that kind is treated."""

    def _trainable(self):
        params = super()._trainable()
        return [p for p in params if (p.device, p.dtype) == (params[0].device, params[0].dtype)]


class StateOfTheWeightsDtype(bsam.BSAM):
    """s is kept in the dtype of the weights, after loading if not before."""

    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict)
        for p, state in self.state.items():
            state["s"] = state["s"].to(p.dtype)


class PerturbedFromTheSample(bsam.BSAM):
    """The perturbation starts at the noisy weights, not at the mean."""

    def _to_sample(self, params):
        super()._to_sample(params)
        mean = self._aside.of(params)
        self._noise = {p: p.detach() - m for p, m in zip(params, mean, strict=True)}

    @torch.no_grad()
    def _to_perturbation(self, gradients, share):
        record = super()._to_perturbation(gradients, share)
        for p in gradients:
            p.add_(self._noise[p])
        return record


class NormalizedPerturbation(bsam.BSAM):
    """The perturbation is divided by the norm of the gradient, as SAM's."""

    def _to_perturbation(self, gradients, share):
        norm = torch.nn.utils.get_total_norm(present(gradients).values())
        return super()._to_perturbation(
            {p: None if g is None else g / norm for p, g in gradients.items()}, share
        )


class BiasCorrection(bsam.BSAM):
    """The momentum is corrected as Adam's."""

    def _update(self):
        super()._update()
        for group in self.param_groups:
            beta1 = group["betas"][0]
            for p in group["params"]:
                if p.grad is not None:
                    state = self.state[p]
                    factor = 1 / (1 - beta1 ** state["step"].item()) - 1
                    p.data -= factor * group["lr"] * state["exp_avg"] / state["s"]


class OneNoiseForAllSteps(bsam.BSAM):
    """Every step draws the same noise."""

    def draw_noise(self, params):
        calls = [group["calls"] for group in self.param_groups]
        for group in self.param_groups:
            group["calls"] = 0
        noise = super().draw_noise(params)
        for group, number in zip(self.param_groups, calls, strict=True):
            group["calls"] = number
        return noise


class OneNoiseForTheSubBatchesOfAStep(bsam.BSAM):
    """All sub-batches of a step draw the same noise."""

    def draw_noise(self, params):
        kept, self._sub_batches = self._sub_batches, 0
        noise = super().draw_noise(params)
        self._sub_batches = kept
        return noise


class NoDampingInPrecision(bsam.BSAM):
    """s is updated without the damping gamma."""

    def _update(self):
        for group in self.param_groups:
            group["damping"], self._damping = 0.0, group["damping"]
        super()._update()
        for group in self.param_groups:
            group["damping"] = self._damping


class NoiseInFrozenWeights(bsam.BSAM):
    """Frozen parameters are sampled too."""

    def _to_sample(self, params):
        super()._to_sample(params)
        for group in self.param_groups:
            for p in group["params"]:
                if not p.requires_grad:
                    p.data += 0.1


class PrecisionCreepsOffItsFloor(bsam.BSAM):
    """beta2 s + (1 - beta2) target, whose rounding errors add up over thousands of steps."""

    @torch.no_grad()
    def _update(self):
        s_before = {p: self.state[p]["s"].clone() for p in self._trainable()}
        super()._update()
        group = self.param_groups[0]
        for p, s in s_before.items():
            scales = self._scales.get(p)
            if p in self._first:
                scales = s.sqrt() * self._first[p].abs()
            if p.grad is not None and scales is not None:
                target = scales + group["weight_decay"] + group["damping"]
                self.state[p]["s"].copy_(group["betas"][1] * s + (1 - group["betas"][1]) * target)


FAULTS = [
    value
    for value in list(globals().values())
    if isinstance(value, type) and issubclass(value, bsam.BSAM) and value is not bsam.BSAM
]


def is_broken(law, make):
    try:
        law(make)
    except (AssertionError, pytest.fail.Exception):
        return True  # any other exception is a fault that does not even run, and fails the test
    return False


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_faulty_bsam_breaks_a_law(fault):
    def make(params, lr=0.1, num_data=20.0, seed=0, **options):
        return fault(params, lr, num_data=num_data, seed=seed, **options)

    assert any(is_broken(law, make) for law in laws.FOR_BOTH + laws.FOR_BSAM)


def test_the_laws_are_not_broken_by_wrapping():
    """What the faults are built with, without a fault: no law is broken."""

    class Sound(bsam.BSAM):
        def draw_noise(self, params):
            return super().draw_noise(params)

        @contextmanager
        def _moved(self, phase, params):
            with super()._moved(phase, params):
                yield

    def make(params, lr=0.1, num_data=20.0, seed=0, **options):
        return Sound(params, lr, num_data=num_data, seed=seed, **options)

    assert not [law for law in laws.FOR_BOTH + laws.FOR_BSAM if is_broken(law, make)]


class NotRestoringSAM(NotRestoring, bsam.SAM):
    """The weights stay perturbed."""


class SAMWithoutLoss(bsam.SAM):
    """step(closure) forgets the loss."""

    def step(self, closure=None):
        super().step(closure)


class SAMThatForgetsItsBase(bsam.SAM):
    """The base optimizer's state is not in the state_dict."""

    def state_dict(self):
        return {**super().state_dict(), "state": {}}


class SAMThatDecaysThePerturbed(bsam.SAM):
    """The base's step is made before the weights are back."""

    def _update(self):
        for p in self._trainable():
            p.data += 1e-3 * p.grad
        super()._update()


@pytest.mark.parametrize(
    "fault", [NotRestoringSAM, SAMWithoutLoss, SAMThatForgetsItsBase, SAMThatDecaysThePerturbed]
)
def test_a_faulty_sam_breaks_a_law(fault):
    def make(params, lr=0.05):
        return fault(params, torch.optim.AdamW, rho=0.1, lr=lr)

    assert any(is_broken(law, make) for law in laws.FOR_BOTH)
