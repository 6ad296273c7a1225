"""The command line as a person or a script uses it."""

import json
import os
import signal
import subprocess
import sys

import pytest

import bsam
from bsam import cli
from bsam.relaxation.expressions import FUNCTIONS

QUICK = ["compare", "digits", "--seeds", "1", "--epochs", "1", "--num-samples", "2"]


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
        assert "bsam compare digits" in out
    for command, words in (
        ("compare", ("--seeds", "--runs", "{SGD,SGD-2x,", "Ctrl-C", "--jobs")),
        ("train", ("--method", "--seed", "last checkpoint")),
        ("evaluate", ("such as runs/digits/bSAM/seed-0", "--device")),
        ("report", ("hold some at any depth", "--output")),
        ("relax", ("bsam relax --loss", "--mean", "--sd", "logistic, absolute", "page.html")),
    ):
        status, out, _ = run(capsys, command, "--help")
        assert status == 0
        for word in words:
            assert word in out


def test_version(capsys):
    assert run(capsys, "--version")[:2] == (0, f"bsam {bsam.__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["comprae"], "Available subcommands: compare"),
        (["compare", "digits", "--methods", "Adma"], "Expected one of ('SGD', 'SGD-2x'"),
        (["compare", "digits", "--sedes", "3"], "--seeds"),
        (["compare", "letters"], "letters"),
        (["compare", "digits", "--seeds", "0"], "--seeds=0: must be at least 1"),
        (["compare", "digits", "--epochs", "-1"], "--epochs=-1: must be at least 1"),
        (["compare", "digits", "--num-samples", "0"], "--num-samples=0: must be at least 1"),
        (["compare", "digits", "--jobs", "-1"], "--jobs=-1: must be at least 0"),
        (["compare", "digits", "--seed", "-1"], "--seed=-1: must be at least 0"),
        (["compare", "digits", "--device", "abacus"], "--device=abacus: must be auto, cpu or an"),
        (
            ["train", "digits", "--checkpoint-every", "0"],
            "--checkpoint-every=0: must be at least 1",
        ),
        (["evaluate", "nowhere"], "nowhere: holds no finished run; make one with `bsam train`"),
        (["report", "nowhere"], "nowhere: holds no finished run"),
        (
            ["relax", "--loss", "logistc"],
            "--loss=logistc: is no known name; did you mean logistic?",
        ),
        (["relax", "--loss", "theta^2"], "write **, as in theta**2"),
        (["relax", "--sd", "-1"], "--sd=-1.0: must be at least 0.001"),
        (["relax", "--output", ""], "--output='': is empty; name a folder"),
        (["relax", "--mean", "nan"], "--mean=nan: must be at least"),
    ],
)
def test_wrong_usage(capsys, arguments, words):
    status, out, err = run(capsys, *arguments)
    assert status == 2
    assert words in " ".join((out + err).replace("│", " ").split())


def test_compare_prints_and_writes(capsys, tmp_path):
    root = tmp_path / "new" / "runs"
    command = [*QUICK, "--methods", "bSAM", "SGD", "--jobs", "1", "--runs", str(root)]
    status, out, err = run(capsys, *command)
    assert status == 0
    for words in ("clean", "turned 30", "accuracy %", "Fewer than 3 seeds are no evidence"):
        assert words in out
    assert err.splitlines() == ["[1/2] bSAM, seed 0", "[2/2] SGD, seed 0"]
    content = json.loads((root / "results.json").read_text())
    assert {row["method"] for row in content["rows"]} == {"bSAM", "SGD"}
    assert content["version"] == bsam.__version__
    assert sorted(os.listdir(root)) == ["SGD", "bSAM", "report.html", "results.json"]
    assert (root / "report.html").read_text().startswith("<!doctype html>")
    status, again, err = run(capsys, *command)
    assert (status, again) == (0, out)
    assert err.splitlines()[0] == "[1/2] bSAM, seed 0 (was there)"
    status, out, err = run(capsys, *command, "--epochs", "2")
    assert status == 2
    assert "holds a run with other settings (epochs differ)" in err


def test_train_evaluate_and_report_do_the_parts(capsys, tmp_path):
    root, page = tmp_path / "runs", tmp_path / "page"
    short = ["--epochs", "1", "--num-samples", "2", "--runs", str(root)]
    status, out, err = run(capsys, "train", "digits", *short)
    folder = root / "bSAM" / "seed-0"
    assert (status, out) == (0, f"{folder}\n")
    assert err.startswith("[1/1] epoch 1, loss ")
    assert "is finished already" in run(capsys, "train", "digits", *short)[1]
    status, out, _ = run(capsys, "evaluate", str(folder))
    assert status == 0
    first = json.loads(out)
    assert [row["way"] for row in first] == ["samples", "mean"]
    status, out, _ = run(capsys, "report", str(root), "--output", str(page))
    assert status == 0
    assert json.loads((page / "results.json").read_text())["rows"] == first
    assert (page / "report.html").exists()


def test_relax_prints_and_writes(capsys, tmp_path):
    folder = tmp_path / "new"
    command = ["relax", "--loss=-abs(theta) + log(1 + exp(theta))", "--mean", "-.5"]
    status, out, err = run(capsys, *command, "--output", str(folder))
    assert (status, err) == (0, "")
    for words in ("expected loss E_q[l]", "relaxed loss -f**", "mean -0.5, standard deviation 0.7"):
        assert words in out
    assert out.splitlines()[-1].startswith(f"written: {folder / 'numbers.json'}, ")
    assert sorted(os.listdir(folder)) == ["figure.png", "numbers.json", "page.html"]
    content = json.loads((folder / "numbers.json").read_text())
    assert content["arguments"]["expression"] == "-abs(theta) + log(1 + exp(theta))"
    assert f"{content['relaxed_loss']['value']:.6g}" in out
    status, _, err = run(capsys, "relax", "--output", str(folder / "page.html" / "in"))
    assert status == 2
    assert "cannot be written to (Not a directory); name another folder." in err
    assert f"--output={folder / 'page.html' / 'in'}: " in err
    status, _, err = run(capsys, "relax", "--output", str(folder / "page.html"))
    assert "cannot be written to (File exists); name another folder." in err


def test_help_of_relax_lists_what_an_expression_may_use(capsys):
    _, out, _ = run(capsys, "relax", "--help")
    told = " ".join(out.replace("│", " ").split())
    for word in (*FUNCTIONS, '--loss="-theta**2"', "from -1e6 to 1e6", "from 0.001 to 1000"):
        assert word in told


def test_a_place_that_cannot_be_written_is_found_before_training(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    status, _, err = run(capsys, *QUICK, "--runs", str(tmp_path / "file" / "runs"))
    assert status == 2
    assert "file" in err
    assert "[1/" not in err


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_ctrl_c_keeps_what_was_finished(tmp_path, jobs):
    command = [sys.executable, "-m", "bsam", "compare", "digits", "--seeds", "50"]
    command += ["--methods", "SGD", "--epochs", "3", "--jobs", jobs, "--runs", str(tmp_path)]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        # A shell that runs the tests in the background has it ignored, and so would the process.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        start_new_session=True,
    ) as process:
        assert process.stderr.readline().startswith("[1/50] SGD, seed")
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all processes
        try:
            out, err = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "interrupted" in err
    assert "Traceback" not in err
    assert "SGD" in out
    done = len(json.loads((tmp_path / "results.json").read_text())["seeds"])
    assert 1 <= done < 50
    assert len(list(tmp_path.glob("SGD/*/evaluation.json"))) == done


def test_output_without_the_letters(tmp_path):
    """Where the encoding has no plus-minus, the table is printed all the same."""
    command = [sys.executable, "-m", "bsam", *QUICK, "--methods", "SGD", "--jobs", "1"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, env=environment, check=True, cwd=tmp_path)
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

    assert seconds("-m", "bsam", "compare", "--help") - seconds("-c", "import torch") < 0.5


def test_help_imports_nothing_heavy():
    code = (
        "import sys; sys.argv = ['bsam', 'compare', '--help']\n"
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
    status, _, err = run(capsys, "compare", "digits")
    assert status == 2
    assert "needs a_package_that_is_not_there; install them with pip install 'bsam[exp" in err
