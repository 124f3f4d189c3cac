"""Reads the tensors of a checkpoint file: whatever it is, what comes out is tensors or one BadInput."""

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

_HEADER_LIMIT = 4 << 20  # bytes; a thousand tensors take 0.1 MiB


@dataclass(frozen=True)
class Contents:
    """What a checkpoint holds: state dicts, whatever is around them, and the definition if the file is one of ours."""

    held: object
    definition: Model | None = None


def read(path: Path, *, trust_code: bool) -> Contents:
    """What `path` holds; a file that is a program is opened only if its code is trusted.

    Raises BadInput for everything else that can be wrong with a file.
    """
    if not path.is_file():
        raise BadInput(f"there is no file {path}", "check the path of the checkpoint")
    try:
        with path.open("rb") as file:
            return _read(file, path, trust_code)
    except BadInput:
        raise
    except Exception as failure:  # torch alone has ten ways to say that a file is broken
        raise BadInput(
            f"the checkpoint is damaged: reading it ends in {type(failure).__name__}", DOWNLOAD_AGAIN
        ) from failure


def check_is_plain(key: str, tensor: torch.Tensor, size: int) -> None:
    """Raises BadInput for a tensor that is none in the file, or claims more numbers than it has bytes for."""
    plain = tensor.layout is torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
    if not plain or tensor.nbytes > min(size, tensor.untyped_storage().nbytes()):
        raise BadInput(f"{quoted(key)} is not an ordinary tensor of numbers in the file", "save only a state_dict()")


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
        held = inert.load(file, identity.set_aside)
    elif trust_code:
        held = _trusted(kind, file)
    else:
        raise BadInput(
            f"this is {kind.value}{identity.why}, and loading it runs its code",
            "save its state_dict() instead, or pass --trust-code if you trust whoever made it",
        )
    return Contents(held)


def _trusted(kind: Format, file: BinaryIO) -> object:
    try:
        return unsafe_loaders.OPENERS[kind](file)
    except (ImportError, AttributeError) as failure:
        problem = f"the checkpoint needs the code that it was saved with: {str(failure).splitlines()[0]}"
        raise BadInput(problem, "put that code's folder into PYTHONPATH, or save its state_dict()") from failure


def _read_safetensors(file: BinaryIO, path: Path, size: int) -> Contents:
    header = int.from_bytes(file.read(8), "little")
    if header > min(size - 8, _HEADER_LIMIT):
        raise BadInput(f"the checkpoint claims a header of {header:,} bytes, which cannot be", DOWNLOAD_AGAIN)
    with safe_open(path, framework="pt") as opened:
        tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118  # it is not a mapping
        metadata = opened.metadata() or {}
    # safetensors writes a tied weight once, and the names that it left out beside it
    tied = {left_out: tensors[kept] for left_out, kept in metadata.items() if kept in tensors}
    return Contents(tied | tensors, embedded_definition.from_metadata(metadata))


def _read_shards(file: BinaryIO, path: Path, size: int, trust_code: bool) -> Contents:
    """The tensors of all files that an index (`model.safetensors.index.json`) names, which lie beside it."""
    tensors: dict[str, object] = {}
    for name in shards.parse_index(file.read(_HEADER_LIMIT), size):
        shard = path.with_name(name)
        if not shard.is_file():
            raise BadInput(f"{path.name} names {quoted(name)}, which does not lie beside it", "fetch that file too")
        with shard.open("rb") as opened:
            held = _read(opened, shard, trust_code).held
        if not isinstance(held, Mapping):
            raise BadInput(f"{name} is of type {type(held).__name__}, not a state dict", "save only a state_dict()")
        tensors |= held
    return Contents(tensors)
