"""The demo: honest splits, the same start for all, a table and a file that agree."""

import io
import json
import math

import pytest
import torch
from rich.console import Console
from sklearn.datasets import load_digits

from bsam.experiments import demo
from bsam.experiments.data import digits, turned
from bsam.experiments.methods import METHODS
from bsam.experiments.models import mlp
from bsam.experiments.results import write_json
from bsam.experiments.training import train

SHORT = demo.Plan(seeds=range(2), epochs=2, num_samples=3)


def in_order(images):
    return images[torch.tensor(sorted(range(len(images)), key=lambda i: images[i].tolist()))]


def rows(plan=SHORT):
    return [row for run in demo.runs(plan) for row in run]


@pytest.fixture(scope="module")
def short_rows():
    return rows()


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


def test_turned_by_four_quarters_is_the_same():
    part = digits(seed=0).test
    quarter = turned(part, 90).images
    torch.testing.assert_close(quarter, torch.rot90(part.images, 1, (1, 2)))
    assert not torch.equal(turned(part, 45).images, part.images)


def test_runs_give_a_row_for_each_prediction(short_rows):
    kinds = [(row["method"], row["prediction"], row["seed"]) for row in short_rows]
    expected = ["SGD", "Adam", "SAM", "bSAM", "bSAM"]
    assert [kind[0] for kind in kinds] == expected * 2
    assert kinds[4] == ("bSAM", "3 samples", 0)
    for row in short_rows:
        for name in ("accuracy", "ece", "turned_confidence", "turned_accuracy"):
            assert 0 <= row[name] <= 1
        assert row["nll"] > 0


def test_the_same_seed_gives_the_same_numbers(short_rows):
    again = rows()
    for a, b in zip(short_rows, again, strict=True):
        assert {**a, "training_seconds": 0} == {**b, "training_seconds": 0}


def test_summary_is_mean_and_standard_error(short_rows):
    summary = demo.summary(short_rows)
    sgd = [row["nll"] for row in short_rows if row["method"] == "SGD"]
    assert summary[0]["runs"] == 2
    assert summary[0]["nll"]["mean"] == pytest.approx(sum(sgd) / 2)
    assert summary[0]["nll"]["standard_error"] == pytest.approx(abs(sgd[0] - sgd[1]) / 2)
    single = demo.summary(short_rows[:1])
    assert single[0]["nll"]["standard_error"] is None
    assert demo.summary([]) == []


def test_a_diverged_run_does_not_lose_the_others(short_rows, tmp_path):
    rows = [dict(row) for row in short_rows]
    rows[0]["nll"] = math.inf
    assert demo.summary(rows)[0]["nll"] == {"mean": math.inf, "standard_error": None}
    demo.show(rows, SHORT, Console(file=io.StringIO()))
    write_json(tmp_path / "results.json", demo.record(rows, SHORT))
    assert json.loads((tmp_path / "results.json").read_text())["runs"][0]["nll"] == "inf"


@pytest.mark.parametrize("width", [30, 80, 200])
def test_table_shows_whole_numbers_and_says_what_was_tuned(short_rows, width):
    out = io.StringIO()
    demo.show(short_rows, SHORT, Console(file=out, width=width))
    text = " ".join(out.getvalue().split())
    for words in ("accuracy %", "NLL", "ECE", "3 samples", "Tuned: the learning rate", "Not tuned"):
        assert words in text
    assert "…" not in text
    assert "Fewer than 3 seeds are no evidence" in text
    nll = demo.summary(short_rows)[0]["nll"]
    assert f"{nll['mean']:.3f}±{nll['standard_error']:.3f}" in text


def test_the_account_of_s_is_recorded_and_printed(short_rows):
    (sampled,) = (row for row in short_rows if row["prediction"] != "weights" and not row["seed"])
    assert 0 <= sampled["s_at_floor"] <= 1
    assert sampled["s_prior_deviation"] == pytest.approx((718 * 1e-3) ** -0.5)
    assert 0.03 < sampled["s_deviation"] < 0.05  # 1 / sqrt(718 s), s just below 1
    out = io.StringIO()
    demo.show(short_rows, SHORT, Console(file=out, width=200))
    share = f"{sampled['s_at_floor']:.0%}"
    assert f"bSAM's posterior: {share} of s at its floor, 0% still at s_init" in out.getvalue()


def trained(name, epochs=15):
    split = digits(seed=0)
    torch.manual_seed(0)
    model = mlp(64, 32, 10)
    method = METHODS[name]
    optimizer = method.make(model, method.lr, len(split.train.labels), 0)
    loss = train(model, optimizer, split.train, epochs=epochs, batch_size=64, seed=0)
    return model, optimizer, split, loss


@pytest.mark.parametrize("name", METHODS)
def test_every_method_learns(name):
    model, _, split, loss = trained(name)
    assert loss < 0.5
    right = model(split.test.images).argmax(1) == split.test.labels
    assert right.float().mean() > 0.9
