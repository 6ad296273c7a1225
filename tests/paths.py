"""The ways in which BSAM makes its steps, each to be had by name."""

import warnings

import pytest
import torch

from bsam import building, kernels, native

OPTIONS = {
    "loop": {"foreach": False},
    "foreach": {"foreach": True},
    "native": {"compiled": True},
    "torch.compile": {"compiled": True},
    "capturable": {"capturable": True},
}
COMPILED = ["native", "torch.compile"]


def require_native():
    """Skip where there is no compiler; fail where there is one and the kernels do not build."""
    try:
        building._compiler()
    except OSError as error:
        pytest.skip(str(error))
    assert native.works(torch.device("cpu"), torch.float32)


def options(path, monkeypatch):
    """Return the options of a path, having seen to it that they lead there; skip if they cannot."""
    cpu = torch.device("cpu")
    if path == "native":
        require_native()
    if path == "torch.compile":
        monkeypatch.setattr(native, "works", lambda *_: False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if not kernels.works(cpu, torch.float32):
                pytest.skip("no working C++ compiler for torch.compile")
    return OPTIONS[path]
