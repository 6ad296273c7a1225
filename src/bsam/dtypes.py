"""Which dtype to compute in."""

import torch
from torch import Tensor


def state_dtype(tensor: Tensor) -> torch.dtype:
    """Return the dtype to compute and keep state in: never narrower than float32."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def widest_dtype(device: torch.device) -> torch.dtype:
    """Return the dtype for sums over everything: float64, but on mps, which has none, float32."""
    return torch.float32 if device.type == "mps" else torch.float64
