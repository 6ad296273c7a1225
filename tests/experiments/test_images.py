"""Image data sets in the Hub's layout, and the network for them."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

import bsam
from bsam.experiments.data import images
from bsam.experiments.models import resnet

datasets = pytest.importorskip("datasets")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Colour images, each of one value that tells its number; the test file counts on."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    names = datasets.ClassLabel(names=["even", "odd"])
    features = datasets.Features({"img": datasets.Image(), "number": datasets.Value("int64")})
    features["fine_label"] = names
    for name, numbers in (("train", range(40)), ("test", range(40, 60))):
        rows = {
            "img": [np.full((4, 6, 3), (i, 0, 255), dtype=np.uint8) for i in numbers],
            "number": list(numbers),
            "fine_label": [i % 2 for i in numbers],
        }
        path = tmp_path / "data" / f"{name}-00000-of-00001.parquet"
        path.parent.mkdir(exist_ok=True)
        datasets.Dataset.from_dict(rows, features=features).to_parquet(path)
    return str(tmp_path / "data")


def numbers(part):
    return (part.images[:, 0, 0, 0] * 255).round().long()


def test_images_are_split_by_seed(folder):
    split = images(folder, 0, train=20, validation=10)
    again = images(folder, 0, train=20, validation=10)
    other = images(folder, 1, train=20, validation=10, test=8)
    for part, size in zip(split, (20, 10, 20), strict=True):
        assert part.images.shape == (size, 3, 4, 6)
        assert part.images.dtype == torch.float32
        assert bool((part.images[:, 1] == 0).all() and (part.images[:, 2] == 1).all())
        assert torch.equal(part.labels, numbers(part) % 2)
        assert int(part.labels.sum()) == size // 2
    assert all(torch.equal(a.images, b.images) for a, b in zip(split, again, strict=True))
    assert not torch.equal(numbers(split.train), numbers(other.train))
    train, validation, test = map(numbers, split)
    assert len({*train.tolist(), *validation.tolist()}) == 30
    assert int(train.max()) < 40
    assert int(validation.max()) < 40
    assert test.tolist() == list(range(40, 60))
    assert len(other.test.labels) == 8
    assert int(numbers(other.test).min()) >= 40


def test_all_images_of_the_training_file_may_be_used(folder):
    train, validation, _ = images(folder, 0, train=30, validation=10)
    assert sorted(torch.cat([numbers(train), numbers(validation)]).tolist()) == list(range(40))


@pytest.mark.skipif("BSAM_DATA" not in os.environ, reason="BSAM_DATA (data sets) is not set")
def test_fashion_mnist():
    folder = Path(os.environ["BSAM_DATA"]) / "fashion_mnist"
    split = images(str(folder), 0, train=200, validation=100)
    assert [tuple(part.images.shape) for part in split] == [(n, 28, 28) for n in (200, 100, 10_000)]
    assert split.train.labels.bincount().tolist() == [20] * 10
    assert split.test.labels[:3].tolist() == [9, 2, 1]
    assert float(split.train.images.min()) == 0.0
    assert float(split.train.images.max()) == 1.0


@pytest.mark.parametrize(("channels", "shape"), [(1, (5, 8, 8)), (3, (5, 3, 32, 32))])
def test_resnet(channels, shape):
    model = resnet(channels, 7, widths=(4, 8), stem_stride=2)
    assert model(torch.rand(shape)).shape == (5, 7)
    assert len(bsam.normalization.tracking_layers(model)) == 1 + 2 + 3
    deep = resnet(1, 10)
    assert sum(p.numel() for p in deep.parameters()) == 19_810
