"""BSAM and SAM keep the laws, on every path."""

import laws
import paths
import pytest
import torch

import bsam


def make_bsam(path):
    def make(params, lr=0.1, num_data=20.0, seed=0, **options):
        return bsam.BSAM(params, lr, num_data=num_data, seed=seed, **path, **options)

    return make


def make_sam(base, adaptive):
    def make(params, lr=0.05):
        return bsam.SAM(params, base, rho=0.1, adaptive=adaptive, lr=lr)

    return make


@pytest.mark.parametrize("path", paths.OPTIONS)
@pytest.mark.parametrize("law", laws.FOR_BOTH + laws.FOR_BSAM, ids=lambda law: law.__name__)
def test_bsam(law, path, monkeypatch):
    law(make_bsam(paths.options(path, monkeypatch)))


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("base", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize("law", laws.FOR_BOTH, ids=lambda law: law.__name__)
def test_sam(law, base, adaptive):
    law(make_sam(base, adaptive))
