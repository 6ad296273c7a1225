"""The file of a posterior: safetensors with metadata; what is damaged or foreign is refused.

A safetensors file is a JSON header and raw numbers: reading one runs nothing. Tensors are named
``mean.NAME``, ``precision.NAME`` and ``buffer.NAME``; the metadata has the format and its version,
the order of the parameters (which the draws depend on), num_data, weight_decay, the versions that
wrote it and a checksum over all of this.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from bsam.files import written_whole
from bsam.version import __version__

FORMAT = "bsam-posterior"
VERSION = 1
_KINDS = {"mean": "mean", "precision": "precision", "buffer": "buffers"}


def write(path: str | os.PathLike[str], contents: Mapping[str, Any]) -> None:
    """Write a posterior's contents, the arguments of ``GaussianPosterior`` by name.

    Args:
        path: the file.
        contents: mean, precision, buffers, num_data, weight_decay.

    Raises:
        OSError: if it cannot be written there.
    """
    tensors = {
        f"{kind}.{name}": tensor.detach().to("cpu", memory_format=torch.contiguous_format).clone()
        for kind, argument in _KINDS.items()
        for name, tensor in contents[argument].items()
    }
    metadata = {
        "format": FORMAT,
        "format_version": str(VERSION),
        "bsam_version": __version__,
        "torch_version": torch.__version__,
        "parameters": json.dumps(list(contents["mean"])),
        "num_data": json.dumps(contents["num_data"]),
        "weight_decay": json.dumps(contents["weight_decay"]),
    }
    metadata["sha256"] = _checksum(tensors, metadata)
    with written_whole(path) as temporary:
        try:
            save_file(tensors, temporary, metadata)
        except SafetensorError as error:  # such as a full disk
            raise OSError(f"{os.fspath(path)}: cannot be written: {error}") from None


def read(path: str | os.PathLike[str], device: torch.device) -> dict[str, Any]:
    """Return the contents of a file that :func:`write` wrote.

    Args:
        path: the file.
        device: where to put the tensors.

    Raises:
        ValueError: if the file is not one, is damaged, or is of a newer version.
        OSError: if it cannot be read.
    """
    with Path(path).open(
        "rb"
    ):  # missing, a folder, forbidden: the usual errors with the usual words
        pass
    where = f"path={os.fspath(path)!r}"
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            _require_format(metadata, where)
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(
            f"{where}: is not a whole safetensors file ({error}): must be one that "
            "GaussianPosterior.save() wrote. Pickles are never loaded, since they can run code."
        ) from None
    expected = metadata.pop("sha256", None)
    if _checksum(tensors, metadata) != expected:
        raise ValueError(
            f"{where}: the checksum does not match: the file was edited or damaged after "
            "GaussianPosterior.save() wrote it; save it again."
        )
    try:
        return _contents(tensors, metadata, device)
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{where}: is not as GaussianPosterior.save() writes it ({error})."
        ) from None


def _contents(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str], device: torch.device
) -> dict[str, Any]:
    contents: dict[str, Any] = {argument: {} for argument in _KINDS.values()}
    for key, tensor in tensors.items():
        kind, _, name = key.partition(".")
        contents[_KINDS[kind]][name] = tensor.to(device)
    means = contents["mean"]
    contents["mean"] = {name: means[name] for name in json.loads(metadata["parameters"])}
    for argument in ("num_data", "weight_decay"):
        contents[argument] = json.loads(metadata[argument])
    return contents


def _require_format(metadata: Mapping[str, str], where: str) -> None:
    if metadata.get("format") != FORMAT:
        raise ValueError(
            f"{where}: is a safetensors file, but not of a posterior: must be one that "
            "GaussianPosterior.save() wrote."
        )
    version = metadata.get("format_version", "")
    if version != str(VERSION):
        raise ValueError(
            f"{where}: has format version {version!r}: must be {VERSION}; it was written by "
            "another version of bsam, so update this one."
        )


def _checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Hash everything that has a meaning, in an order of its own."""
    described = [
        [key, str(tensors[key].dtype), list(tensors[key].shape)] for key in sorted(tensors)
    ]
    digest = hashlib.sha256(json.dumps([sorted(metadata.items()), described]).encode())
    for key in sorted(tensors):
        digest.update(tensors[key].flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
