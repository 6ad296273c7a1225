"""The file of a posterior: exact, whole or not at all, and nothing else is taken for one."""

import json
import os
import pickle
import struct
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from scenarios import batch, identical, mlp
from torch import nn

import bsam
from bsam import GaussianPosterior, files, posterior_file


@pytest.fixture
def posterior():
    torch.manual_seed(0)
    mean = {
        "z.weight": torch.randn(3, 2),  # names are not in alphabetical order
        "a.bias": torch.randn((), dtype=torch.float64),
        "m": torch.randn(4).to(torch.bfloat16),
        "fixed": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
        "none": torch.randn(0, 3),
    }
    precision = {n: torch.rand_like(mean[n].double()) + 0.1 for n in ("a.bias",)}
    precision |= {n: torch.rand_like(mean[n].float()) + 0.1 for n in ("m", "z.weight", "none")}
    buffers = {"count": torch.tensor(7), "mask": torch.tensor([True, False]), "running": mean["m"]}
    return GaussianPosterior(
        mean,
        precision,
        num_data=50_000,
        weight_decay={"z.weight": 1e-4, "a.bias": 0.0, "m": 0.1, "none": 0.0},
        buffers=buffers,
    )


@pytest.fixture
def path(tmp_path, posterior):
    posterior.save(tmp_path / "posterior.safetensors")
    return tmp_path / "posterior.safetensors"


def test_what_comes_back_is_the_same_bit_for_bit(posterior, path):
    loaded = GaussianPosterior.load(path)
    for kind in ("mean", "precision", "buffers"):
        ours, theirs = getattr(posterior, kind), getattr(loaded, kind)
        assert list(ours) == list(theirs), "the order decides the draws"
        for name, tensor in ours.items():
            assert theirs[name].dtype == tensor.dtype
            assert torch.equal(theirs[name], tensor)
    assert loaded.num_data == posterior.num_data
    assert loaded.weight_decay == posterior.weight_decay
    for name, draw in posterior.sample(3, seed=1).items():
        assert torch.equal(loaded.sample(3, seed=1)[name], draw)
    path.unlink()
    assert torch.equal(loaded.mean["m"], posterior.mean["m"]), "it must not need the file any more"


def test_anyone_can_read_the_file(posterior, path):
    (path.parent / "plain").write_text("")
    assert path.stat().st_mode == (path.parent / "plain").stat().st_mode
    tensors = load_file(path)
    assert torch.equal(tensors["mean.z.weight"], posterior.mean["z.weight"])
    assert torch.equal(tensors["precision.m"], posterior.precision["m"])
    assert torch.equal(tensors["buffer.count"], posterior.buffers["count"])
    (length,) = struct.unpack("<Q", path.read_bytes()[:8])
    metadata = json.loads(path.read_bytes()[8 : 8 + length])["__metadata__"]
    assert metadata["format"] == "bsam-posterior"
    assert metadata["format_version"] == "1"
    assert metadata["bsam_version"] == bsam.__version__
    assert metadata["torch_version"] == torch.__version__


IN_ANOTHER_PROCESS = """
import sys, torch, bsam
model = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.BatchNorm1d(5), torch.nn.Linear(5, 3))
posterior = bsam.GaussianPosterior.load(sys.argv[1])
predictive = bsam.predict(torch.compile(model, backend="eager"), posterior, torch.load(sys.argv[2]))
torch.save(predictive.probs, sys.argv[3])
"""


@pytest.mark.filterwarnings("ignore:the model has running statistics")
def test_another_process_predicts_the_same_bit_for_bit(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    optimizer = bsam.BSAM(model.parameters(), 0.1, num_data=12)
    x, y = batch()

    def closure():
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        return loss

    optimizer.step(closure)
    places = [str(tmp_path / name) for name in ("posterior.safetensors", "inputs", "probs")]
    optimizer.posterior(model).save(places[0])
    torch.save(x, places[1])
    subprocess.run([sys.executable, "-c", IN_ANOTHER_PROCESS, *places], check=True)
    here = bsam.predict(model, optimizer.posterior(model), x).probs
    assert torch.equal(torch.load(places[2]), here)


# ------------------------------------------------------------------ what is refused


def test_a_file_cut_short_anywhere_is_refused(path):
    whole = path.read_bytes()
    for length in [*range(64), *range(64, len(whole), 41), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="is not a whole safetensors file"):
            GaussianPosterior.load(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(ValueError, match="is not a whole safetensors file"):
        GaussianPosterior.load(path)


def test_a_file_with_one_changed_byte_is_refused(path):
    whole = path.read_bytes()
    refused = 0
    for place in range(0, len(whole), 7):
        changed = bytearray(whole)
        changed[place] ^= 1
        path.write_bytes(changed)
        try:
            GaussianPosterior.load(path)
        except ValueError as error:
            assert str(path) in str(error)  # noqa: PT017
            refused += 1
    assert refused == len(range(0, len(whole), 7))


@pytest.mark.parametrize(
    ("key", "value"),
    [("num_data", "1.0"), ("weight_decay", "0.5"), ("bsam_version", "9"), ("extra", "x")],
)
def test_edited_metadata_is_refused(path, key, value):
    (length,) = struct.unpack("<Q", path.read_bytes()[:8])
    metadata = json.loads(path.read_bytes()[8 : 8 + length])["__metadata__"]
    save_file(load_file(path), path, metadata | {key: value})
    with pytest.raises(ValueError, match="the checksum does not match: the file was edited"):
        GaussianPosterior.load(path)
    save_file(load_file(path), path, {k: v for k, v in metadata.items() if k != "sha256"})
    with pytest.raises(ValueError, match="the checksum does not match"):
        GaussianPosterior.load(path)


def test_edited_numbers_are_refused(path):
    (length,) = struct.unpack("<Q", path.read_bytes()[:8])
    metadata = json.loads(path.read_bytes()[8 : 8 + length])["__metadata__"]
    tensors = load_file(path)
    tensors["precision.m"] = tensors["precision.m"] * 2
    save_file(tensors, path, metadata)
    with pytest.raises(ValueError, match="the checksum does not match"):
        GaussianPosterior.load(path)


def test_another_version_is_refused(path, posterior, monkeypatch):
    monkeypatch.setattr(posterior_file, "VERSION", 2)
    posterior.save(path)
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"format version '2': must be 1; .* update"):
        GaussianPosterior.load(path)


def test_foreign_safetensors_are_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    for metadata in (None, {"format": "pt"}):
        save_file(dict(mlp().state_dict()), path, metadata)
        with pytest.raises(ValueError, match="is a safetensors file, but not of a posterior"):
            GaussianPosterior.load(path)


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_pickle_is_refused_and_not_run(tmp_path):
    path, proof = tmp_path / "posterior.safetensors", tmp_path / "proof"
    for write in (pickle.dump, torch.save):
        with path.open("wb") as file:
            write(Evil(proof), file)
        with pytest.raises(ValueError, match="Pickles are never loaded, since they can run code"):
            GaussianPosterior.load(path)
    assert not proof.exists()


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"{}", b"\xff" * 100, b"PK\x03\x04" + b"0" * 50]
)
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "posterior.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is not a whole safetensors file"):
        GaussianPosterior.load(str(path))


def test_no_file_and_a_folder_give_the_usual_errors(tmp_path, posterior):
    with pytest.raises(FileNotFoundError):
        GaussianPosterior.load(tmp_path / "nothing")
    with pytest.raises(IsADirectoryError):
        GaussianPosterior.load(tmp_path)
    with pytest.raises(OSError, match="nowhere"):
        posterior.save(tmp_path / "nowhere" / "posterior.safetensors")


def test_a_file_of_another_model_is_refused_when_it_is_used(tmp_path):
    model = mlp()
    bsam.BSAM(model.parameters(), 0.1, num_data=12).posterior(model).save(tmp_path / "p")
    loaded = GaussianPosterior.load(tmp_path / "p")
    other = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))
    before = [p.clone() for p in other.parameters()]
    with pytest.raises(ValueError, match=r"it has '2\.weight' of shape \(2, 5\), not \(3, 5\)"):
        bsam.predict(other, loaded, torch.zeros(1, 4))
    assert identical(other.parameters(), before)


# ------------------------------------------------------------------ whole or not at all


def test_a_failed_save_leaves_what_was_there(path, posterior, monkeypatch):
    before = path.read_bytes()

    def disk_full(_tensors, file, _metadata):
        file.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(posterior_file, "save_file", disk_full)
    with pytest.raises(OSError, match="no space left"):
        posterior.save(path)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_written_whole_replaces_at_the_end(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with files.written_whole(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    with pytest.raises(ZeroDivisionError), files.written_whole(path) as temporary:
        temporary.write_text(f"{1 / 0}")
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["file"]
