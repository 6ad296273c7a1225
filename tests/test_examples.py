"""The examples run, in a short form, and make what they say."""

import runpy
from pathlib import Path

import pytest
from PIL import Image

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_two_moons(tmp_path, capsys):
    output = tmp_path / "moons.png"
    main = runpy.run_path(str(EXAMPLES / "two_moons.py"))["main"]
    main(["--steps", "300", "--samples", "5", "--output", str(output)])
    out = capsys.readouterr().out
    assert f"written: {output}" in out
    losses = [float(line.split()[-1]) for line in out.splitlines() if line.startswith("step")]
    assert losses[-1] < losses[0]
    with Image.open(output) as image:
        assert image.width > 800
        assert len(image.convert("RGB").getcolors(10**6)) > 100


@pytest.mark.parametrize("wrong", [["--samples", "0"], ["--steps", "0"], ["--output", "moons.xyz"]])
def test_two_moons_refuses_wrong_options_before_training(wrong, capsys):
    main = runpy.run_path(str(EXAMPLES / "two_moons.py"))["main"]
    with pytest.raises(SystemExit) as end:
        main(wrong)
    assert end.value.code == 2
    assert wrong[0] in capsys.readouterr().err


def test_every_example_is_tested():
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    for path in EXAMPLES.glob("*.py"):
        assert f'"{path.name}"' in tests
