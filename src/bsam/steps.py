"""What BSAM does with the two gradients: its state, its noise, its lines on each path."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from bsam import bundles, compiled, eager, kernels, native, noise, options, states
from bsam.bundles import Bundle
from bsam.dtypes import state_dtype
from bsam.engine import TwoPassOptimizer
from bsam.gradients import Gradients, owned, present, require_finite, running_mean
from bsam.layout import overlap

_SPLITS = 8  # which are kept, of those for different choices of parameters


class LearnedVariances(TwoPassOptimizer):
    """The steps of :class:`bsam.BSAM`, which says what its options mean."""

    _kept: dict[Tensor, Tensor]  # room for the mean on the compiled path
    _split: dict[tuple[int, ...], list[Bundle]]  # by ids; until anything is moved
    _look: bundles.Look | None  # at how all lay when they were split
    _apart: bool | None  # whether none shared memory then, once it is known

    def __init__(self, params: Any, defaults: dict[str, Any]) -> None:
        self._kept = {}
        self._split_anew()
        super().__init__(params, defaults)

    def draw_noise(self, params: list[Tensor]) -> list[Tensor]:
        """Make the standard normal noise of one sub-batch.

        It is called once for each sub-batch. A subclass may override it, to replay recorded draws
        or to draw antithetic pairs. This one is a pure function of (seed, call, sub-batch,
        element), where an element's number is its place in the memory of its parameter, all of all
        groups laid end to end: neither freezing some nor adding a group changes that of the others.

        Args:
            params: the parameters that require gradients, in group order.

        Returns:
            One tensor for each, of its shape, on its device, in the dtype of its state.
        """
        first = bundles.first_elements(self.param_groups)
        return noise.standard_normal_like(params, [first[p] for p in params], self._key())

    # -------------------------------------------------------------- the lines of the algorithm

    @torch.no_grad()
    def _to_sample(self, params: list[Tensor]) -> None:
        self._begin()
        if getattr(self.draw_noise, "__func__", None) is not LearnedVariances.draw_noise:
            self._to_given_sample(params)
            return
        # Made where it is used, and never stored; where they can, kernels set the mean aside, too.
        key = self._key()
        at_once = self._kernels_can_take(params)
        if not at_once:
            self._aside.take(params, self._room)  # all of them, before any moves
        for bundle in self._bundles(params):
            s, num_data = self._states(bundle, "s"), self._num_data_of_noise(bundle.group)
            about: dict[str, Any] = {"key": key, "num_data": num_data}
            if at_once:
                if bundle.room is None:
                    bundle.room = native.Seen(self._room(bundle))
                done = self._aside.promise(bundle, bundle.room)
                if native.keep_and_sample(bundle, bundle.room, s, bundle.first, done=done, **about):
                    continue
            self._aside.take(bundle, self._room)
            mean = self._aside.of(bundle)
            _lines(bundle).sample_stream(bundle, mean, s, bundle.first, **about)

    def _to_given_sample(self, params: list[Tensor]) -> None:
        drawn = dict(zip(params, self._checked_noise(params), strict=True))
        self._aside.take(params, self._room)
        for bundle in self._bundles(params):
            mean, s = self._aside.of(bundle), self._states(bundle, "s")
            noise_of = [drawn[p] for p in bundle]
            num_data = self._num_data_of_noise(bundle.group)
            _lines(bundle).sample(bundle, mean, noise_of, s, num_data=num_data)

    def _kernels_can_take(self, params: list[Tensor]) -> bool:
        """Whether each bundle may be copied and moved before the next one is copied."""
        if not (self._aside.lacks(params) and self._all_native(params)):
            return False
        if self._apart is None:
            self._apart = not overlap(params)
        return self._apart

    def _num_data_of_noise(self, group: dict[str, Any]) -> float:
        return group["num_data"]

    @torch.no_grad()
    def _to_perturbation(self, gradients: Gradients, share: float | None) -> Gradients:
        given = present(gradients)
        self._go_on()
        self._aside.take(list(gradients), self._room)
        self._aside.put_back(without=given)
        if self._in_closures == 1 and all(map(owned, given.values())):
            for bundle in self._bundles(list(given)):
                mean, s = self._aside.of(bundle), self._states(bundle, "s")
                first, rho = [given[p] for p in bundle], bundle.group["rho"]
                finite = _lines(bundle).perturb(bundle, mean, first, s, rho=rho)
                self._require_finite(finite, given)
            self._first = given  # as good as sqrt(s) |g|, and there already
            return {}
        into: dict[Tensor, Tensor] = {} if share is None else self._scales
        share = 1.0 if share is None else share
        for p in into.keys() & (gradients.keys() - given.keys()):
            into[p].mul_(1.0 - share)
        for bundle in self._bundles(list(given)):
            lines = _lines(bundle)
            new = [p for p in bundle if p not in into]
            into.update(zip(new, lines.scratch(new), strict=True))
            for p in new if share < 1.0 else ():
                into[p].zero_()
            finite = lines.perturb_and_scale(
                bundle,
                self._aside.of(bundle),
                [given[p] for p in bundle],
                self._states(bundle, "s"),
                [into[p] for p in bundle],
                rho=bundle.group["rho"],
                share=share,
            )
            self._require_finite(finite, given)
        return {} if into is self._scales else dict.fromkeys(gradients) | into

    @torch.no_grad()
    def _record(self, record: Gradients, share: float) -> None:
        for p in list(record):
            mean = running_mean(self._scales.get(p), record.pop(p), share, in_place=True)
            if mean is not None:
                self._scales[p] = mean

    @torch.no_grad()
    def _update(self) -> None:
        self._go_on()
        gradients = self._mean_gradients()
        self._aside.put_back(without=gradients)
        for bundle in self._bundles(list(gradients)):
            group, s = bundle.group, self._states(bundle, "s")
            recorded = [(self._first or self._scales).get(p) for p in bundle]
            _lines(bundle).update(
                bundle,
                self._aside.of(bundle),
                self._states(bundle, "exp_avg"),
                s,
                [gradients[p] for p in bundle],
                [torch.zeros_like(b) if a is None else a for a, b in zip(recorded, s, strict=True)],
                scaled=not self._first,
                lr=group["lr"],
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                weight_decay=group["weight_decay"],
                damping=group["damping"],
                order=group["order"],
            )
            _count(self._states(bundle, "step"))
        calls = self.param_groups[0]["calls"]
        calls += 1  # in place where it is a tensor, so that a replayed graph counts too
        for group in self.param_groups:
            group["calls"] = calls

    # -------------------------------------------------------------- state and groups

    def _discard(self) -> None:
        super()._discard()
        self._scales: dict[Tensor, Tensor] = {}  # mean over sub-batches of sqrt(s) |g|
        self._first: dict[Tensor, Tensor] = {}  # g itself, where there is one and it may be kept
        self._let_go()

    @torch.no_grad()
    @torch.inference_mode(False)  # what is made there could not be trained with afterwards
    def _create_state(self) -> None:
        params, capturable = self._trainable(), self.param_groups[0]["capturable"]
        for bundle in bundles.split(self.param_groups, [p for p in params if not self.state[p]]):
            for name, value in (("exp_avg", 0.0), ("s", bundle.group["s_init"])):
                for p, place in zip(bundle, _lines(bundle).room(bundle), strict=True):
                    self.state[p][name] = place.fill_(value)
            for p in bundle:
                self.state[p]["step"] = torch.tensor(0.0, dtype=torch.float32, device="cpu")
        for p in params:
            state, dtype = self.state[p], state_dtype(p)
            if (state["s"].dtype, state["s"].device) != (dtype, p.device):
                # The model was moved or cast since: the state goes with it.
                for name in ("exp_avg", "s"):
                    state[name] = state[name].to(device=p.device, dtype=dtype)
            if capturable and state["step"].device != p.device:
                state["step"] = state["step"].to(p.device)
        if capturable and params and not isinstance(self.param_groups[0]["calls"], Tensor):
            calls = torch.tensor(self.param_groups[0]["calls"], device=params[0].device)
            for group in self.param_groups:
                group["calls"] = calls

    def _all_finite(self, gradients: Mapping[Tensor, Tensor]) -> bool:
        rest = dict(gradients)
        for bundle in self._bundles(list(gradients)):
            if _kernels(bundle) is not native:
                continue
            if not native.all_finite([rest.pop(p) for p in bundle]):
                return False
        return super()._all_finite(rest)

    def _looks_at_gradients(self) -> bool:
        later = self._phase == "sampled" and self._looks_later()
        return not later and not self.param_groups[0]["capturable"]

    def _looks_later(self) -> bool:
        """Whether first gradients are looked at as the weights move uphill: a pass less.

        In the contexts it would be too late: what ``sampled()`` took is refused at its end.
        """
        return bool(self._in_closures) and self._all_native(self._trainable())

    def _all_native(self, params: list[Tensor]) -> bool:
        return all(_kernels(bundle) is native for bundle in self._bundles(params))

    def _require_finite(self, finite: bool | None, first: dict[Tensor, Tensor]) -> None:
        """Refuse first gradients of which a line that moved the weights says that they are not."""
        if finite is False and self._looks_at_gradients():
            require_finite(first, "sampled", self._label, self._all_finite)

    @torch.inference_mode(False)  # as for state
    def _room(self, params: list[Tensor]) -> list[Tensor]:
        """Return room for the mean; the compiled path keeps it, as fresh memory is a pass more."""
        room: dict[Tensor, Tensor] = {}
        for bundle in [params] if isinstance(params, Bundle) else self._bundles(params):
            keep = _kernels(bundle)
            if keep and all(_fits(self._kept.get(p), p) for p in bundle):
                room |= {p: self._kept[p] for p in bundle}
                continue
            lines = _lines(bundle)
            places = (lines.room if keep else lines.scratch)(bundle, bundle[0].dtype)
            new = dict(zip(bundle, places, strict=True))
            room |= new
            self._kept |= new if keep else {}
        return [room[p] for p in params]

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._kept = {}
        self._split_anew()
        super().__setstate__(state)
        for group in self.param_groups:
            group.setdefault("capturable", False)
        if self._loading is not None:
            # torch gives state the dtype of the parameter; in bfloat16 s would never move again.
            states.widen(self.state, self._loading, self.param_groups)

    def _require_fitting(self, state_dict: dict[str, Any]) -> None:
        states.require_fitting(state_dict, self.defaults, self.param_groups)

    def _checked_options(self, group: dict[str, Any]) -> dict[str, Any]:
        checked = options.of_bsam(group) | {"seed": options.seed(group["seed"])}
        if self.param_groups:
            first = self.param_groups[0]
            if group["seed"] not in (self.defaults["seed"], first["seed"]):
                raise ValueError(
                    f"seed={group['seed']!r}: must be that of the other groups, {first['seed']}; "
                    "one stream serves all, so leave it out."
                )
            if checked["capturable"] != first["capturable"]:
                raise ValueError(
                    f"capturable={group['capturable']!r}: must be that of the other groups, "
                    f"{first['capturable']}; one count of updates serves all, so leave it out."
                )
            checked |= {"seed": first["seed"], "calls": first["calls"]}
        return checked

    def _checked_noise(self, params: list[Tensor]) -> list[Tensor]:
        drawn = list(self.draw_noise(params))
        shapes = [tuple(each.shape) for each in drawn]
        wanted = [tuple(p.shape) for p in params]
        if shapes != wanted:
            raise ValueError(
                f"draw_noise() returned tensors of shapes {shapes}: must be {wanted}; return one "
                "standard normal tensor for each parameter it was given, in their order."
            )
        return drawn

    def _key(self) -> int | Tensor:
        """Return the key of the stream of noise that the current sub-batch has."""
        group = self.param_groups[0]
        return noise.stream_key(group["seed"], group["calls"], self._sub_batches)

    def _states(self, bundle: Bundle, name: str) -> list[Tensor]:
        return bundle.states(self.state, name)

    def _as_before(self, look: bundles.Look | None) -> bool:
        """Whether parameters, groups and state are those that were split, and lie as they did."""
        if look is None or look is not self._look:
            return False
        return all(bundle.holds(self.state) for each in self._split.values() for bundle in each)

    def _begin(self) -> None:
        """Have state for all, and know how all of it lies."""
        look = bundles.look(self.param_groups, self._look)
        if self._as_before(look):
            return
        self._split_anew()
        self._create_state()
        for bundle in self._bundles(self._trainable()) if look else ():
            for name in states.NAMES:
                bundle.states(self.state, name)  # from now on it is noticed if one is exchanged
        self._look = look

    def _go_on(self) -> None:
        """Forget how all lay, if anything was exchanged or moved since the step began."""
        if not self._as_before(bundles.look(self.param_groups, self._look)):
            self._split_anew()

    def _split_anew(self) -> None:
        self._split, self._look, self._apart = {}, None, None

    def _let_go(self) -> None:
        """Keep nothing for the next step that might be looked at in vain, or wanted back."""
        if self._look is None:
            self._split_anew()
        for each in self._split.values():
            for bundle in each:
                bundle.let_go()

    def _bundles(self, params: Sequence[Tensor]) -> list[Bundle]:
        """Return parameters by group, device and dtype, split once as long as all holds."""
        key = tuple(map(id, params))
        if key not in self._split:
            if len(self._split) == _SPLITS:  # where gradients come now here, now there
                self._split_anew()
            self._split[key] = list(bundles.split(self.param_groups, params))
        return self._split[key]


def _count(steps: list[Tensor]) -> None:
    if all(step.is_cpu for step in steps):
        # For a number torch would make a tensor anew for each; alpha picks the other form.
        torch._foreach_add_(steps, torch.tensor(1.0, device="cpu"), alpha=1.0)
    else:
        torch._foreach_add_(steps, 1.0)


def _kernels(bundle: Bundle) -> Any:
    """Return the compiled way to work on parameters, None if it is not asked for or not there."""
    if not bundle.group["compiled"]:
        return None
    kind = (bundle[0].device, bundle[0].dtype)
    if native.works(*kind):
        return native
    return compiled if kernels.works(*kind, native.why_not(*kind)) else None


def _lines(bundle: Bundle) -> Any:
    if way := _kernels(bundle):
        return way
    # On a CPU pieces stay in cache; on an accelerator a launch for each costs more.
    foreach = bundle.group["foreach"]
    on_lists = bundle[0].device.type != "cpu" if foreach is None else foreach
    return eager.FOREACH if on_lists else eager.LOOP


def _fits(room: Tensor | None, p: Tensor) -> bool:
    if room is None or room.dtype is not p.dtype or room.device != p.device:
        return False
    return room.shape == p.shape and room.stride() == p.stride()
