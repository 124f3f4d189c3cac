"""Reads checkpoint files of all formats; any invalid file raises BadInput."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import safe_open

from deploytool.errors import BadInput
from deploytool.loading import shards
from deploytool.loading.checkpoints import embedded_definition, inert, unsafe_loaders
from deploytool.loading.checkpoints.file_formats import DOWNLOAD_AGAIN, Format, identify
from deploytool.loading.checkpoints.key_maps import quoted
from deploytool.spec import Model

_MAX_HEADER_BYTES = 4 << 20  # a thousand tensors take 0.1 MiB


@dataclass(frozen=True)
class Contents:
    """The loaded object, with state dicts anywhere in it, and the model definition if this tool wrote the file."""

    data: object
    definition: Model | None = None


def read(path: Path, *, trust_code: bool) -> Contents:
    """Reads the file `path`; a file that contains code is loaded only with `trust_code`.

    Raises BadInput for an invalid or missing file.
    """
    if not path.is_file():
        raise BadInput(f"there is no file {path}", "check the path of the checkpoint")
    try:
        with path.open("rb") as file:
            return _read(file, path, trust_code)
    except BadInput:
        raise
    except Exception as failure:  # torch raises exceptions of many types for a damaged file
        raise BadInput(
            f"the checkpoint is damaged: reading it raises {type(failure).__name__}", DOWNLOAD_AGAIN
        ) from failure


def check_is_plain(key: str, tensor: torch.Tensor, size: int) -> None:
    """Raises BadInput for a sparse, quantized or meta tensor, and for one larger than its storage or the file."""
    dense = tensor.layout is torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
    if not dense or tensor.nbytes > min(size, tensor.untyped_storage().nbytes()):
        raise BadInput(f"{quoted(key)} is not a dense tensor with its data in the file", "save only a state_dict()")


def _read(file: BinaryIO, path: Path, trust_code: bool) -> Contents:
    size = path.stat().st_size
    if path.suffix == ".json":
        return _read_shards(file, path, size, trust_code)
    identity = identify(file, size)
    kind = identity.format
    file.seek(0)
    if kind is Format.SAFETENSORS:
        return _read_safetensors(file, path, size)
    if kind in (Format.TENSORS, Format.LEGACY):
        data = inert.load(file, identity.replaced_classes)
    elif trust_code:
        data = _load_trusted(kind, file)
    else:
        raise BadInput(
            f"this is {kind.value}{identity.reason}, and loading it runs its code",
            "save its state_dict() instead, or pass --trust-code if you trust its author",
        )
    return Contents(data)


def _load_trusted(kind: Format, file: BinaryIO) -> object:
    try:
        return unsafe_loaders.OPENERS[kind](file)
    except (ImportError, AttributeError) as failure:
        problem = f"the checkpoint needs the code that it was saved with: {str(failure).splitlines()[0]}"
        raise BadInput(problem, "add the folder of that code to PYTHONPATH, or save its state_dict()") from failure


def _read_safetensors(file: BinaryIO, path: Path, size: int) -> Contents:
    header = int.from_bytes(file.read(8), "little")
    if header > min(size - 8, _MAX_HEADER_BYTES):
        raise BadInput(f"the checkpoint declares a header of {header:,} bytes, which is too large", DOWNLOAD_AGAIN)
    with safe_open(path, framework="pt") as opened:
        tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118  # it is not a mapping
        metadata = opened.metadata() or {}
    # safetensors writes tied weights once, and maps the omitted names to the written one in the metadata
    tied = {omitted: tensors[written] for omitted, written in metadata.items() if written in tensors}
    return Contents(tied | tensors, embedded_definition.from_metadata(metadata))


def _read_shards(file: BinaryIO, path: Path, size: int, trust_code: bool) -> Contents:
    """The tensors of all files that an index (`model.safetensors.index.json`) names; they are in its folder."""
    tensors: dict[str, object] = {}
    for name in shards.parse_index(file.read(_MAX_HEADER_BYTES), size):
        shard = path.with_name(name)
        if not shard.is_file():
            raise BadInput(f"{path.name} names {quoted(name)}, which is missing", "download that file too")
        with shard.open("rb") as opened:
            data = _read(opened, shard, trust_code).data
        if not isinstance(data, Mapping):
            raise BadInput(f"{name} is of type {type(data).__name__}, not a state dict", "save only a state_dict()")
        tensors |= data
    return Contents(tensors)
