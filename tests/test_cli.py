"""The command line as a person or a script uses it."""

import json
import os
import signal
import subprocess
import sys

import pytest

import bsam
from bsam import cli

QUICK = ["demo", "--seeds", "1", "--epochs", "1", "--num-samples", "2"]


def run(capsys, *arguments):
    try:
        status = cli.main(arguments)
    except SystemExit as end:
        status = end.code
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_help_teaches(capsys):
    for arguments in ((), ("--help",)):
        status, out, _ = run(capsys, *arguments)
        assert status == 0
        assert "Try first" in out
        assert "bsam demo" in out
    status, out, _ = run(capsys, "demo", "--help")
    assert status == 0
    for words in ("--seeds", "--output", "{SGD,Adam,SAM,bSAM}", "Ctrl-C"):
        assert words in out


def test_version(capsys):
    assert run(capsys, "--version")[:2] == (0, f"bsam {bsam.__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["dmeo"], "Available subcommands: demo"),
        (["demo", "--methods", "Adma"], "Expected one of ('SGD', 'Adam', 'SAM'"),
        (["demo", "--sedes", "3"], "--seeds"),
        (["demo", "--seeds", "0"], "--seeds=0: must be at least 1"),
        (["demo", "--epochs", "-1"], "--epochs=-1: must be at least 1"),
        (["demo", "--num-samples", "0"], "--num-samples=0: must be at least 1"),
        (["demo", "--methods"], "--methods: must name at least one of SGD, Adam, SAM, bSAM"),
        (["demo", "--seed", "-1"], "--seed=-1: must be at least 0"),
        (["demo", "--device", "abacus"], "--device=abacus: must be auto, cpu or an accelerator"),
    ],
)
def test_wrong_usage(capsys, arguments, words):
    status, out, err = run(capsys, *arguments)
    assert status == 2
    assert words in " ".join((out + err).replace("│", " ").split())


def test_demo_prints_and_writes(capsys, tmp_path):
    path = tmp_path / "new" / "results.json"
    status, out, err = run(capsys, *QUICK, "--methods", "bSAM", "SGD", "--output", str(path))
    assert status == 0
    assert "accuracy %" in out
    assert "Fewer than 3 seeds are no evidence" in out
    assert err.splitlines() == ["[1/2] bSAM, seed 0", "[2/2] SGD, seed 0"]
    content = json.loads(path.read_text())
    assert [row["method"] for row in content["runs"]] == ["bSAM", "bSAM", "SGD"]
    assert content["plan"]["epochs"] == 1
    assert content["version"] == bsam.__version__
    assert os.listdir(path.parent) == ["results.json"]
    (tmp_path / "plain").write_text("")
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_place_that_cannot_be_written_is_found_before_training(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    status, _, err = run(capsys, *QUICK, "--output", str(tmp_path / "file" / "results.json"))
    assert status == 2
    assert "--output" in err
    assert "[1/" not in err


def test_ctrl_c_keeps_what_was_finished(tmp_path):
    path = tmp_path / "results.json"
    command = [sys.executable, "-m", "bsam", "demo", "--seeds", "50", "--output", str(path)]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        # A shell that runs the tests in the background has it ignored, and so would the process.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        assert process.stderr.readline().startswith("[1/200] SGD, seed 0")
        process.send_signal(signal.SIGINT)
        try:
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "interrupted" in err
    assert "Traceback" not in err
    assert "of 200 runs were finished" in out
    assert json.loads(path.read_text())["runs"][0]["method"] == "SGD"


def test_output_without_the_letters():
    """Where the encoding has no plus-minus, the table is printed all the same."""
    command = [sys.executable, "-m", "bsam", *QUICK[:2], "2", *QUICK[3:], "--methods", "SGD"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, env=environment, check=True)
    assert b"accuracy %" in done.stdout


def test_help_is_quick():
    """Help costs less than half a second of processor time beyond `import torch`."""

    def seconds(*command):
        times = []
        for _ in range(4):
            before = os.times()
            subprocess.run([sys.executable, *command], check=True, capture_output=True)
            after = os.times()
            times.append(sum(after[2:4]) - sum(before[2:4]))
        return min(times)

    assert seconds("-m", "bsam", "demo", "--help") - seconds("-c", "import torch") < 0.5


def test_help_imports_nothing_heavy():
    code = (
        "import sys; sys.argv = ['bsam', 'demo', '--help']\n"
        "from bsam.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'sklearn', 'scipy', 'matplotlib', 'datasets'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_import_needs_the_core_alone():
    """`import bsam` pulls in nothing of the extras."""
    code = (
        "import sys, bsam, bsam.metrics;"
        "extras = {'sklearn', 'scipy', 'tyro', 'rich', 'matplotlib', 'datasets', 'jinja2'};"
        "print(sorted(extras & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_without_the_extra(capsys, monkeypatch):
    monkeypatch.setattr(cli, "_NEEDS", ("tyro", "a_package_that_is_not_there"))
    status, _, err = run(capsys, "demo")
    assert status == 2
    assert "needs a_package_that_is_not_there; install them with pip install 'bsam[exp" in err
