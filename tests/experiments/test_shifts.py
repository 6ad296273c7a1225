"""Splits share nothing; shifted and unknown images are what they say."""

import torch
from sklearn.datasets import load_digits

from bsam.experiments.data import digits
from bsam.experiments.shifts import SHIFTED, noisy, test_sets, turned, unknown

test_sets.__test__ = False  # pytest takes it for a test


def in_order(images):
    return images[torch.tensor(sorted(range(len(images)), key=lambda i: images[i].tolist()))]


def test_split_shares_nothing_and_is_stratified():
    split = digits(seed=3)
    everything = torch.from_numpy(load_digits().images).float().flatten(1) / 16
    images = torch.cat([part.images for part in split]).flatten(1)
    assert torch.equal(in_order(images), in_order(everything)), "each image in exactly one part"
    for part in split:
        share = torch.bincount(part.labels, minlength=10) / len(part.labels)
        assert (share - 0.1).abs().max() < 0.01
        assert part.images.min() == 0.0
        assert part.images.max() == 1.0
    assert not torch.equal(split.test.labels, digits(seed=4).test.labels)
    assert torch.equal(split.test.images, digits(seed=3).test.images)


def test_turned_by_a_quarter_and_by_less():
    part = digits(seed=0).test
    quarter = turned(part, 90).images
    torch.testing.assert_close(quarter, torch.rot90(part.images, 1, (1, 2)))
    assert not torch.equal(turned(part, 45).images, part.images)


def test_noise_has_its_deviation_and_its_seed():
    part = digits(seed=0).test
    grey = part._replace(images=torch.full_like(part.images, 0.5))
    noise = noisy(grey, 0.1, seed=1).images - 0.5
    assert abs(noise.std() - 0.1) < 0.001
    assert torch.equal(noisy(part, 0.3, seed=1).images, noisy(part, 0.3, seed=1).images)
    assert not torch.equal(noisy(part, 0.3, seed=1).images, noisy(part, 0.3, seed=2).images)
    strong = noisy(part, 5.0, seed=1).images
    assert (strong.min(), strong.max()) == (0.0, 1.0)


def test_test_sets_keep_labels():
    part = digits(seed=0).test
    sets = test_sets(part, seed=0)
    assert tuple(sets) == SHIFTED
    for each in sets.values():
        assert torch.equal(each.labels, part.labels)
        assert each.images.shape == part.images.shape
    assert torch.equal(sets["clean"].images, part.images)


def test_unknown_images_are_patches_from_black_to_white():
    images = unknown(50, seed=0)
    assert images.shape == (50, 8, 8)
    assert torch.equal(images.amin((1, 2)), torch.zeros(50))
    assert torch.equal(images.amax((1, 2)), torch.ones(50))
    assert torch.equal(images, unknown(50, seed=0))
    assert not torch.equal(images, unknown(50, seed=1))
    assert len({tuple(image.flatten().tolist()) for image in images}) == 50
