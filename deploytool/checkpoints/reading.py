"""Reads the tensors of a checkpoint file: whatever it is, what comes out is tensors or one BadInput."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import safe_open

from deploytool.checkpoints import definition, trusted
from deploytool.checkpoints.formats import AGAIN, Format, identify
from deploytool.checkpoints.naming import quoted
from deploytool.errors import BadInput
from deploytool.spec import Model

SHELLS = ("state_dict_ema", "model_ema", "state_dict", "model")  # averaged weights before the last ones, as timm does
PREFIXES = ("module.", "backbone.")
_HEADER_LIMIT = 4 << 20  # bytes; a thousand tensors take 0.1 MiB


@dataclass(frozen=True)
class Contents:
    """The tensors of a checkpoint by name, and the definition they belong to if the file is one of ours."""

    tensors: Mapping[str, torch.Tensor]
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
        raise BadInput(f"the checkpoint is damaged: reading it ends in {type(failure).__name__}", AGAIN) from failure


def _read(file: BinaryIO, path: Path, trust_code: bool) -> Contents:
    size = path.stat().st_size
    kind, why = identify(file, size)
    file.seek(0)
    if kind is Format.SAFETENSORS:
        return _read_safetensors(file, path, size)
    if kind is Format.TENSORS:
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    elif trust_code:
        loaded = trusted.OPENERS[kind](file)
    else:
        raise BadInput(
            f"this is {kind.value}{why}, and loading it runs its code",
            "save its state_dict() instead, or pass --trust-code if you trust whoever made it",
        )
    tensors = _without_prefix(_unwrapped(loaded))
    for key, tensor in tensors.items():
        _check_is_plain(key, tensor, size)
    return Contents(tensors)


def _read_safetensors(file: BinaryIO, path: Path, size: int) -> Contents:
    header = int.from_bytes(file.read(8), "little")
    if header > min(size - 8, _HEADER_LIMIT):
        raise BadInput(f"the checkpoint claims a header of {header:,} bytes, which cannot be", AGAIN)
    with safe_open(path, framework="pt") as opened:
        tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118  # it is not a mapping
        return Contents(_without_prefix(tensors), definition.stored(opened.metadata() or {}))


def _unwrapped(loaded: object) -> Mapping[Any, Any]:
    """The state dict inside whatever a training script put around it."""
    for _ in range(3):
        if isinstance(loaded, torch.nn.Module):
            loaded = loaded.state_dict()
        if not isinstance(loaded, Mapping):
            problem = f"the checkpoint is of type {type(loaded).__name__}, not a state dict"
            raise BadInput(problem, "save only a state_dict()")
        shell = next((shell for shell in SHELLS if isinstance(loaded.get(shell), (Mapping, torch.nn.Module))), None)
        if shell is None:
            break
        loaded = loaded[shell]
    return loaded  # type: ignore[return-value]  # the loop leaves nothing else


def _without_prefix(tensors: Mapping[Any, Any]) -> dict[Any, Any]:
    """The same tensors without a prefix that all names have."""
    for prefix in PREFIXES:
        if tensors and all(str(key).startswith(prefix) for key in tensors):
            tensors = {str(key).removeprefix(prefix): tensor for key, tensor in tensors.items()}
    return dict(tensors)


def _check_is_plain(key: object, tensor: object, size: int) -> None:
    """Refuses what is no tensor, and a tensor that claims more numbers than the file has bytes for."""
    if not isinstance(key, str):
        raise BadInput(f"{quoted(key)} is no name of a tensor", "save only a state_dict()")
    if not isinstance(tensor, torch.Tensor):
        raise BadInput(f"{quoted(key)} is of type {type(tensor).__name__}, not a tensor", "save only a state_dict()")
    plain = tensor.layout is torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
    if not plain or tensor.nbytes > min(size, tensor.untyped_storage().nbytes()):
        raise BadInput(f"{quoted(key)} is not an ordinary tensor of numbers in the file", "save only a state_dict()")
