"""What torch.optim asks of an optimizer: parameter groups, options, states that go to a file."""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from bsam import options, parameters


class GroupedOptimizer(torch.optim.Optimizer):
    """Groups and state, checked; a subclass says what is allowed and when it is settled."""

    _loading: dict[str, Any] | None = None  # the state dict, while torch loads it

    def __init__(self, params: Any, defaults: dict[str, Any]) -> None:
        self._discard()
        super().__init__(parameters.require_tensors(params), defaults)

    # -------------------------------------------------------------- what a subclass defines

    @abstractmethod
    def _checked_options(self, group: dict[str, Any]) -> dict[str, Any]:
        """Return the options of a group as plain values, or raise for one that is not allowed."""

    @abstractmethod
    def _require_fitting(self, state_dict: dict[str, Any]) -> None:
        """Raise ValueError for a state that is not this optimizer's."""

    @abstractmethod
    def _discard(self) -> None:
        """Forget what belongs to a step that is not finished."""

    @abstractmethod
    def _require_mean(self, what: str) -> None:
        """Raise RuntimeError inside a pass, naming what was asked for."""

    @abstractmethod
    def _require_settled(self, what: str) -> None:
        """Raise RuntimeError inside a pass and between two that belong together."""

    # -------------------------------------------------------------- groups

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

    def _trainable(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"] if p.requires_grad]

    def _label(self, param: Tensor) -> str:
        return parameters.label(self.param_groups, param)

    # -------------------------------------------------------------- state

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
        self._discard()
        super().__setstate__(state)

    def train(self, mode: bool = True) -> None:
        """Do nothing; for loops that put every optimizer into training mode."""

    def eval(self) -> None:
        """Do nothing; for loops that put every optimizer into evaluation mode."""
