"""Averages, paired differences and pooled calibration against plain computation."""

import io
import json
import math
import statistics

import numpy as np
import pytest
from rich.console import Console
from scipy import stats
from short_runs import carried_out, short

from bsam import metrics
from bsam.experiments import compare, comparison, tables
from bsam.experiments.results import write_json

METHODS = ("SGD", "SAM", "bSAM")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    recipes = [short(method, seed) for seed in range(3) for method in METHODS]
    return carried_out(tmp_path_factory.mktemp("runs"), recipes)


@pytest.fixture(scope="module")
def results(finished):
    return comparison.results(finished, "a command", {"torch": "a version"})


def entry(results, label):
    return next(each for each in results["entries"] if each["label"] == label)


def test_every_way_to_predict_has_an_entry(results):
    assert [each["label"] for each in results["entries"]] == [
        "SGD",
        "SGD, temperature",
        "SAM",
        "SAM, temperature",
        "SAM, noise",
        "bSAM",
        "bSAM, mean",
    ]
    assert results["seeds"] == [0, 1, 2]
    assert results["failed"] == []
    assert results["settings"]["SGD"] == short("SGD").settings


def test_measures_are_those_of_the_stored_predictions(finished, results):
    for run in finished[:3]:
        way = {"SGD": "temperature", "SAM": "noise", "bSAM": "samples"}[run.recipe.method]
        (row,) = (
            row
            for row in results["rows"]
            if (row["method"], row["way"], row["seed"]) == (run.recipe.method, way, 0)
        )
        log_probs = run.arrays[f"{way}/turned 30/log_probs"].astype(float)
        labels = run.arrays["labels"]
        nll = -log_probs[np.arange(len(labels)), labels].mean()
        assert row["NLL turned 30"] == pytest.approx(nll, rel=1e-6)
        assert row["accuracy turned 30"] == (log_probs.argmax(1) == labels).mean()
        clean, unknown = (
            np.exp(run.arrays[f"{way}/{name}/log_probs"].astype(float))
            for name in ("clean", "unknown")
        )
        entropy = [stats.entropy(p, axis=1) for p in (clean, unknown)]
        assert row["OOD AUROC"] == pytest.approx(metrics.ood_auroc(*entropy), abs=1e-6)


def test_averages_and_paired_differences(results):
    ours, theirs = (
        [row["NLL clean"] for row in results["rows"] if row["label"] == label]
        for label in ("SGD", "bSAM")
    )
    measure = entry(results, "SGD")["measures"]["NLL clean"]
    assert measure["mean"] == pytest.approx(statistics.fmean(ours))
    assert measure["standard_error"] == pytest.approx(stats.sem(ours))
    difference = entry(results, "SGD")["differences"]["NLL clean"]
    test = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    assert difference["low"] == pytest.approx(test.low)
    assert difference["high"] == pytest.approx(test.high)
    assert entry(results, "bSAM")["differences"] == {}


@pytest.mark.parametrize(
    ("ours", "theirs", "verdict"),
    [
        ([0.2, 0.21, 0.22], 0.1, "worse"),
        ([0.1, 0.11, 0.12], 0.2, "better"),
        ([0.2, 0.0, 0.15], 0.1, "tie"),
        ([0.1, 0.1, 0.1], 0.1, "tie"),
        ([0.2, 0.2], 0.1, "no evidence"),
        ([0.1, math.inf, 0.1], 0.1, "worse"),
        ([0.1, 0.1, 0.1], math.inf, "no evidence"),
    ],
)
def test_verdicts(ours, theirs, verdict):
    pairs = [(value, theirs) for value in ours]
    assert comparison.difference(pairs)["verdict"] == verdict


def test_pooled_calibration_and_its_jackknife(finished, results):
    own = [run for run in finished if run.recipe.method == "SAM"]
    probs = [comparison.probabilities(run, "weights", "clean") for run in own]
    labels = [run.arrays["labels"] for run in own]

    def ece(kept):
        return metrics.expected_calibration_error(
            np.concatenate([probs[i] for i in kept]), np.concatenate([labels[i] for i in kept])
        )

    value = entry(results, "SAM")["measures"]["ECE"]
    assert value["mean"] == ece([0, 1, 2])
    left = [ece(kept) for kept in ([1, 2], [0, 2], [0, 1])]
    jackknife = math.sqrt(2 / 3 * sum((x - statistics.fmean(left)) ** 2 for x in left))
    assert value["standard_error"] == pytest.approx(jackknife)


def test_one_seed_is_no_evidence(finished):
    results = comparison.results(finished[:3], "", {})
    assert entry(results, "SGD")["measures"]["NLL clean"]["standard_error"] is None
    assert entry(results, "SGD")["differences"]["NLL clean"]["verdict"] == "no evidence"
    assert "Fewer than 3 seeds are no evidence" in printed(results)


def test_a_failed_run_is_infinitely_bad_and_named(finished):
    failed = finished[0]._replace(arrays={}, evaluation={"failed": "diverged"})
    results = comparison.results([failed, *finished[1:]], "", {})
    sgd = entry(results, "SGD")
    assert sgd["measures"]["NLL clean"] == {"mean": math.inf, "standard_error": None}
    assert sgd["differences"]["NLL clean"]["verdict"] == "worse"
    assert results["failed"] == [str(failed.folder)]
    assert "Failed, counted as infinite" in printed(results)


def test_without_bsam_there_are_no_differences(finished):
    others = [run for run in finished if run.recipe.method != "bSAM"]
    results = comparison.results(others, "", {})
    assert all(each["differences"] == {} for each in results["entries"])
    assert results["diagnostics"] == {}
    printed(results)


def printed(results, width=120):
    out = io.StringIO()
    tables.show(results, Console(file=out, width=width))
    return " ".join(out.getvalue().split())


@pytest.mark.parametrize("width", [30, 80, 200])
def test_tables_show_whole_numbers_and_how_to_read_them(results, width):
    text = printed(results, width)
    value = entry(results, "SAM, noise")["measures"]["NLL noise"]
    assert f"{value['mean']:.3f}±{value['standard_error']:.3f}" in text
    for words in ("SGD, temperature", "= ties with bSAM", "3 seeds", "(unlearned)"):
        assert words in text
    assert "…" not in text


def test_runs_that_do_not_belong_together_are_refused(finished):
    twin = finished[0]._replace(folder=finished[0].folder / "elsewhere")
    with pytest.raises(
        ValueError, match=r"elsewhere: the same method and seed as .*: must be there"
    ):
        comparison.results([*finished, twin], "", {})
    longer = finished[0].recipe._replace(seed=9, epochs=99)
    with pytest.raises(ValueError, match=r"other settings than .*must be alike but for the seed"):
        comparison.results([*finished, twin._replace(recipe=longer)], "", {})


def test_results_go_to_a_file_and_back(results, tmp_path):
    write_json(tmp_path / "results.json", results)
    assert json.loads((tmp_path / "results.json").read_text())["entries"][0]["label"] == "SGD"


# ------------------------------------------------------------------ carrying out


def plan(root, **changes):
    given = {"data": "digits", "methods": ("SGD", "bSAM"), "seeds": range(2), "root": root}
    return compare.Plan(**given | {"changes": {"epochs": 1, "num_samples": 2}} | changes)


def test_the_number_of_jobs_does_not_matter(tmp_path):
    one, two = plan(tmp_path / "one"), plan(tmp_path / "two", jobs=2)
    told = []
    compare.carry_out(one, lambda _: None)
    compare.carry_out(two, told.append)
    assert sorted(told) == [f"{m}, seed {s}" for m in ("SGD", "bSAM") for s in (0, 1)]
    for a, b in zip(one.finished(), two.finished(), strict=True):
        assert a.recipe == b.recipe
        for name, array in a.arrays.items():
            np.testing.assert_array_equal(array, b.arrays[name])


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_interrupted_comparison_goes_on(tmp_path, jobs):
    def interrupt(_):
        raise KeyboardInterrupt

    whole = plan(tmp_path, jobs=jobs)
    with pytest.raises(KeyboardInterrupt):
        compare.carry_out(whole, interrupt)
    done = len(whole.finished())
    assert 1 <= done < 4 or jobs == 2
    told = []
    compare.carry_out(whole, told.append)
    assert len(whole.finished()) == len(told) == 4
    assert sum("(was there)" in each for each in told) == done


def test_other_settings_are_refused_before_anything_is_trained(tmp_path):
    compare.carry_out(plan(tmp_path, seeds=[1]), lambda _: None)
    told = []
    with pytest.raises(ValueError, match="epochs differ"):
        compare.carry_out(plan(tmp_path, changes={"epochs": 2, "num_samples": 2}), told.append)
    assert told == []
