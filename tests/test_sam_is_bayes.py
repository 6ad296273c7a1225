"""The example that shows theorem 1: minima coincide where it applies, and only there."""

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

EXAMPLE = Path(__file__).parents[1] / "examples" / "sam_is_bayes.py"


@pytest.fixture(scope="module")
def example():
    return SimpleNamespace(**runpy.run_path(str(EXAMPLE)))


@pytest.fixture(scope="module")
def ran(example, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sam_is_bayes")
    picture, numbers = folder / "sam.png", folder / "sam.json"
    threads = torch.get_num_threads()
    example.main(["--quick", "--output", str(picture), "--json", str(numbers)])
    torch.set_num_threads(threads)
    return picture, json.loads(numbers.read_text())


def rows_of(ran, **wanted):
    return [row for row in ran[1] if all(row[name] == value for name, value in wanted.items())]


@pytest.mark.parametrize("task", ["moons, logistic", "moons, network"])
def test_minima_coincide_where_the_theorem_applies(ran, task):
    (row,) = rows_of(ran, task=task, way="exact")
    assert row["failures"] == []
    assert row["moved"] > 1e-2  # SAM is not where plain training ends
    assert row["distance"] < 1e-6
    assert row["mean off"] < 1e-5
    assert row["alignment"] < 1e-5
    assert row["decay"] == pytest.approx(
        1 / (row["variance"] + 1 / row["prior_precision"]), rel=1e-12
    )


@pytest.mark.parametrize("task", ["moons, logistic", "moons, network"])
def test_one_step_comes_close_but_not_all_the_way(ran, task):
    (row,) = rows_of(ran, task=task, way="one step")
    assert 1e-4 < row["distance"] < 1e-2
    assert row["distance"] < row["moved"] / 5


def test_constructed_losses_fail_as_they_should(example, ran):
    found = {case.name: rows_of(ran, task=case.name)[0] for case in example.CONSTRUCTED}
    fails = {name: {example.short(each) for each in row["failures"]} for name, row in found.items()}
    assert fails == {
        "unequal slopes": {"ties", "excess"},
        "equal slopes": {"ties"},
        "far cliff": {"excess"},
        "fourth power": {"curvature", "excess"},
        "rho above |m|": {"prior"},
    }
    slopes = found["unequal slopes"]  # SAM at 1 + rho/2, relaxed Bayes at 1 + v, v = rho / slope
    assert slopes["m"][0] == pytest.approx(1.25, abs=1e-6)
    assert slopes["distance"] == pytest.approx(abs(slopes["variance"] - 0.25) / 1.25, abs=1e-5)
    assert found["equal slopes"]["distance"] < 1e-6
    assert found["far cliff"]["distance"] > 1
    assert found["fourth power"]["excess"] == "inf"
    assert found["fourth power"]["distance"] == found["rho above |m|"]["distance"] == "nan"


def test_exact_perturbation_is_the_worst_in_the_ball(example):
    task = example.make_tasks(0)[0]
    mean, eps = example.train_exactly(task, task.start, 0.2)
    assert eps.norm() == pytest.approx(0.2)
    directions = torch.randn(500, len(mean), dtype=torch.float64)
    others = mean + 0.2 * directions / directions.norm(dim=1, keepdim=True)
    assert (task.loss(others) <= task.loss(mean + eps) + 1e-9).all()
    slope = example.gradient(task.loss, mean + eps) + task.decay * mean
    assert slope.norm() < 1e-5


def test_picture(ran):
    with Image.open(ran[0]) as image:
        assert image.width == 1300
        assert len(image.convert("RGB").getcolors(10**6)) > 100


@pytest.mark.parametrize("wrong", [["--seeds", "0"], ["--output", "plot.xyz"]])
def test_refuses_wrong_options_before_training(example, wrong, capsys):
    with pytest.raises(SystemExit) as end:
        example.main(wrong)
    assert end.value.code == 2
    assert wrong[0] in capsys.readouterr().err
