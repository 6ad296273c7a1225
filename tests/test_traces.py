"""Reference traces of the authors' implementation, replayed through the public names.

Three are in ``golden/`` and always run; all run where ``BSAM_CONFORMANCE`` names their folder.
"""

import itertools
import json
import os
from pathlib import Path

import paths
import pytest
import torch
from scenarios import replaying
from torch import nn

import bsam

GOLDEN = Path(__file__).parent / "golden"
ALL = os.environ.get("BSAM_CONFORMANCE")
TRACES = [p for p in sorted(Path(ALL or GOLDEN).glob("*.json")) if "metrics" not in p.name]
TOLERANCE = 1e-10


@pytest.mark.skipif(ALL is not None, reason="all traces run")
def test_traces_left_out():
    pytest.skip("BSAM_CONFORMANCE names no folder of traces: only those in tests/golden run")


def test_golden_traces_are_part_of_all():
    for path in GOLDEN.glob("*.json"):
        if ALL is not None:
            assert json.loads(path.read_text()) == json.loads((Path(ALL) / path.name).read_text())
    assert TRACES


class Replay:
    def __init__(self, path):
        self.trace = json.loads(path.read_text())
        sizes = self.trace["model"]["sizes"]
        self.layers = [nn.Linear(a, b, dtype=torch.float64) for a, b in itertools.pairwise(sizes)]
        self.x = torch.tensor(self.trace["X"], dtype=torch.float64)
        self.y = torch.tensor(self.trace["y"])
        self.params = {
            f"layer{i}.{name}": p
            for i, layer in enumerate(self.layers)
            for name, p in layer.named_parameters()
        }
        with torch.no_grad():
            for name, p in self.params.items():
                p.copy_(torch.tensor(self.trace["w0"][name], dtype=torch.float64))
        self.hyper = self.trace["hyper"]
        self.m = self.hyper.get("msharpness", 1)

    def optimizer(self, path):
        h = self.hyper
        if self.trace["optimizer"] == "bsam":
            draws = (
                [self.trace["noise"][name][t][j] for name in self.params]
                for t in range(self.trace["steps"])
                for j in range(self.m)
            )
            draws = [[torch.tensor(n, dtype=torch.float64) for n in draw] for draw in draws]
            return replaying(draws)(
                self.params.items(),
                lr=h["learningrate"],
                num_data=h["Ndata"],
                rho=h["rho"],
                betas=(h["beta1"], h["beta2"]),
                weight_decay=h["wdecay"],
                damping=h["damping"],
                s_init=h["s_init"],
                order="mean_first",
                **path,
            )
        base = {
            "lr": h["learningrate"],
            "momentum": h["momentum"],
            "weight_decay": h["wdecay"],
            **path,
        }
        if self.trace["optimizer"] == "sam":
            return bsam.SAM(self.params.values(), torch.optim.SGD, rho=h["rho"], **base)
        return torch.optim.SGD(self.params.values(), **base)

    def loss(self, rows):
        z = self.x[rows]
        for layer in self.layers[:-1]:
            z = torch.tanh(layer(z))
        z, y = self.layers[-1](z), self.y[rows]
        if self.trace["model"]["loss"] == "softmax":
            return nn.functional.cross_entropy(z, y)
        return nn.functional.binary_cross_entropy_with_logits(z[:, 0], y.double())

    def closures(self, optimizer, t):
        def closure_for(rows):
            def closure():
                optimizer.zero_grad()
                loss = self.loss(rows)
                loss.backward()
                return loss

            return closure

        rows = torch.tensor(self.trace["batches"][t])
        return [closure_for(block) for block in rows.chunk(self.m)]

    def check(self, optimizer, t, loss):
        def close(value, expected, what):
            torch.testing.assert_close(
                value,
                torch.tensor(expected, dtype=torch.float64),
                rtol=TOLERANCE,
                atol=TOLERANCE,
                msg=lambda text: f"step {t}, {what}: {text}",
            )

        momentum = "exp_avg" if self.trace["optimizer"] == "bsam" else "momentum_buffer"
        if loss is not None:
            close(loss.detach(), self.trace["loss"][t], "loss")
        for name, p in self.params.items():
            close(p.detach(), self.trace["w"][name][t], f"w of {name}")
            close(optimizer.state[p][momentum], self.trace["gm"][name][t], f"gm of {name}")
            if self.trace["optimizer"] == "bsam":
                close(optimizer.state[p]["s"], self.trace["s"][name][t], f"s of {name}")


def by_closures(optimizer, closures):
    return optimizer.step(closures if len(closures) > 1 else closures[0])


def by_contexts(optimizer, closures):
    for closure in closures:
        with optimizer.sampled():
            closure()
        with optimizer.perturbed():
            closure()
    return optimizer.step()


@pytest.mark.parametrize("path", ["loop", "foreach", "native", "torch.compile"])
@pytest.mark.parametrize("door", [by_closures, by_contexts])
@pytest.mark.parametrize("file", TRACES, ids=lambda file: file.stem)
def test_trace(file, door, path, monkeypatch):
    replay = Replay(file)
    if path in paths.COMPILED and replay.trace["optimizer"] != "bsam":
        pytest.skip("only bSAM has kernels")
    if replay.trace["optimizer"] == "sgd" and door is by_contexts:
        pytest.skip("torch.optim.SGD has no contexts")
    optimizer = replay.optimizer(paths.options(path, monkeypatch))
    for t in range(replay.trace["steps"]):
        optimizer.param_groups[0]["lr"] = replay.hyper["learningrate"] * replay.trace["lrfactor"][t]
        loss = door(optimizer, replay.closures(optimizer, t))
        replay.check(optimizer, t, loss)
