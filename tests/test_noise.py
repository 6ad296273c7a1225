"""The noise stream: a pure function of its address, and standard normal."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from bsam.noise import SEEDS, standard_normal, stream_key

COUNT = 200_000


def draw(first=0, count=COUNT, seed=7, call=3, sub_batch=1, dtype=torch.float64):
    return standard_normal(first, count, seed=seed, call=call, sub_batch=sub_batch, dtype=dtype)


def by_hand(first, count, seed, call, sub_batch):
    """The definition in the module's docstring, in Python's integers."""
    gamma, bits = 0x9E3779B97F4A7C15, 2**64 - 1

    def mix(z):
        z &= bits
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & bits
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & bits
        return z ^ (z >> 31)

    key = mix((mix((mix(seed + gamma) ^ call) + gamma) ^ sub_batch) + gamma)
    values = []
    for element in range(first, first + count):
        block, place = divmod(element, 2048)
        z = mix(key + gamma * (1024 * block + place % 1024 + 1))
        radius = math.sqrt(-2 * math.log(((z >> 32) + 0.5) / 2**32))
        angle = 2 * math.pi * (z & (2**32 - 1)) / 2**32
        values.append(radius * (math.sin if place >= 1024 else math.cos)(angle))
    return values


def test_splitmix64_known_answers():
    """The first outputs of SplitMix64 from state 1234567, as other implementations list them."""
    from bsam.noise import _GAMMA, _mix, _words

    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert [_mix(1234567 + _GAMMA * (i + 1)) for i in range(3)] == expected
    words = _words(0, 1, 1234567, torch.device("cpu"))
    assert [int(z) % 2**64 for z in words[0, :3]] == expected


@given(
    first=st.integers(0, 2**40),
    count=st.integers(0, 9),
    seed=st.integers(0, SEEDS - 1),
    call=st.integers(0, 2**40),
    sub_batch=st.integers(0, 1000),
)
def test_is_what_its_docstring_says(first, count, seed, call, sub_batch):
    values = draw(first, count, seed, call, sub_batch)
    assert values.shape == (count,)
    np.testing.assert_allclose(
        values, by_hand(first, count, seed, call, sub_batch), rtol=1e-9, atol=1e-12
    )


@given(call=st.integers(0, 2**40), seed=st.integers(0, SEEDS - 1), sub_batch=st.integers(0, 1000))
def test_a_call_that_is_a_tensor_gives_the_same_key(call, seed, sub_batch):
    assert int(stream_key(seed, torch.tensor(call), sub_batch)) == stream_key(seed, call, sub_batch)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_any_piece_is_bit_for_bit_that_of_the_whole(dtype):
    """Across the edges of pieces worked on at a time, at odd offsets, and alone."""
    whole = draw(count=300_001, dtype=dtype)
    for first, count in (
        (0, 1),
        (1, 1),
        (1, 2),
        (7, 1000),
        (2047, 2),
        (131_071, 3),
        (131_073, 150_000),
    ):
        assert torch.equal(draw(first, count, dtype=dtype), whole[first : first + count])


def test_float32_is_float64_rounded():
    torch.testing.assert_close(draw(dtype=torch.float32).double(), draw(), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("seed", [0, 1, 2**62])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_moments(seed, dtype):
    """Each within five standard errors of a standard normal's."""
    x = draw(seed=seed, dtype=dtype).double()
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((x**power).mean().item() - mean) < 5 * math.sqrt(variance / COUNT)
    assert x.abs().max() < 6.77


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("call", range(4))
def test_kolmogorov_smirnov(call, dtype):
    x = draw(call=call, dtype=dtype).numpy()
    assert stats.kstest(x, "norm").pvalue > 1e-4
    assert stats.kstest(x[::2], "norm").pvalue > 1e-4
    assert stats.kstest(x[1::2], "norm").pvalue > 1e-4


def test_tails():
    """As many beyond 3 and 4 as there should be, within five standard errors."""
    x = standard_normal(0, 2_000_000, seed=0, call=0, sub_batch=0).abs()
    for edge in (3.0, 4.0):
        expected = 2 * stats.norm.sf(edge) * len(x)
        assert abs((x > edge).sum().item() - expected) < 5 * math.sqrt(expected)


def correlation(a, b):
    return abs(torch.corrcoef(torch.stack([a, b]))[0, 1].item())


BOUND = 5 / math.sqrt(COUNT)


@pytest.mark.parametrize("power", [1, 2])
def test_no_correlation_between_streams(power):
    """Between calls, sub-batches and seeds, of values and of squares."""
    x = draw() ** power
    for other in (
        {"call": 4},
        {"call": 2},
        {"call": 1003},
        {"sub_batch": 0},
        {"sub_batch": 2},
        {"call": 1, "sub_batch": 3},
        {"seed": 8},
        {"seed": 7 ^ 3},
    ):
        assert correlation(x, draw(**other) ** power) < BOUND, other


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("lag", [1, 2, 3, 64, 512, 1024, 2048, 65_536, 131_072])
def test_no_correlation_between_neighbours(lag, power):
    x = draw() ** power
    assert correlation(x[lag:], x[:-lag]) < 5 / math.sqrt(COUNT - lag)


def test_no_correlation_over_a_run():
    """One element over many calls, as an optimizer sees it."""
    x = torch.cat([draw(first=5, count=1, call=call) for call in range(20_000)])
    assert stats.kstest(x.numpy(), "norm").pvalue > 1e-4
    assert correlation(x[1:], x[:-1]) < 5 / math.sqrt(20_000)


def test_addresses_are_not_confused():
    """No two of many neighbouring addresses give the same first element."""
    firsts = {
        draw(count=1, seed=s, call=c, sub_batch=j).item()
        for s in range(10)
        for c in range(30)
        for j in range(10)
    }
    assert len(firsts) == 3000
