"""What the README says is true: its code runs, its commands exist, its links lead somewhere."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

import bsam

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def scene():
    torch.manual_seed(0)
    train_set = [(torch.randn(4), torch.tensor(i % 3)) for i in range(24)]
    model = nn.Linear(4, 3)
    return {
        "torch": torch,
        "bsam": bsam,
        "train_set": train_set,
        "loader": torch.utils.data.DataLoader(train_set, batch_size=8),
        "model": model,
        "loss_fn": nn.functional.cross_entropy,
        "optimizer": bsam.BSAM(model.parameters(), lr=0.1, num_data=24),
    }


@pytest.mark.parametrize("side", ["-", "+"])
def test_both_sides_of_the_diff_train(side):
    (diff,) = blocks("diff")
    assert sum(line.startswith("+") for line in diff.splitlines()) <= 12
    code = "\n".join(line[1:] for line in diff.splitlines() if line[:1] in (" ", side))
    names = scene()
    before = names["model"].weight.clone()
    exec(code, names)
    assert not torch.equal(names["model"].weight, before)
    assert isinstance(names["optimizer"], bsam.BSAM if side == "+" else torch.optim.SGD)
    assert names["loss"].ndim == 0


def test_python_blocks_run_one_after_the_other():
    names = scene()
    assert len(blocks("python")) == 3
    for code in blocks("python"):
        exec(code, names)
    predictive = names["predictive"]
    assert predictive.probs.shape == (8, 3)
    assert predictive.mutual_information.shape == predictive.expected_entropy.shape == (8,)
    assert names["posterior"].mean.keys() == dict(names["model"].named_parameters()).keys()
    assert isinstance(names["optimizer"], bsam.SAM)


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    named = set(re.findall(r"`?make (\w+)", README))
    assert {"demo", "test", "docs"} <= named
    for target in named:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize(
    "page", ["README.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))]
)
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if "://" not in target:
            assert ((ROOT / page).parent / target).exists(), target


def test_scripts_that_are_named_exist():
    pages = [README, *((path).read_text() for path in (ROOT / "docs").rglob("*.md"))]
    for path in {m for text in pages for m in re.findall(r"(?:benchmarks|examples)/\w+\.py", text)}:
        assert (ROOT / path).exists(), path
