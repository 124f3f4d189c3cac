"""The model as PyTorch runs it, line by line: the source that every artifact is held against."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from deploytool import factory, plain
from deploytool.backends import Array, Session
from deploytool.errors import MissingBackend
from deploytool.spec import Model


def fingerprint() -> str:
    """The version of torch."""
    return f"torch {torch.__version__}"


def save(module: nn.Module, model: Model, path: Path) -> None:
    """Writes the weights together with the definition they belong to, so that one file is the whole model."""
    state = {name: tensor.contiguous() for name, tensor in module.state_dict().items()}
    save_file(state, path, metadata={"model": json.dumps(plain.encode(model))})


def definition(path: Path) -> Model:
    """The definition that a weights file belongs to."""
    with safe_open(path, framework="numpy") as file:
        return plain.decode(Model, json.loads(file.metadata()["model"]))


def module(path: Path) -> nn.Module:
    """The model of a weights file, on the CPU, in evaluation mode."""
    model = definition(path)
    made: nn.Module = factory.resolve(model.factory)(**model.options)
    made.load_state_dict(load_file(path))
    return made.eval().requires_grad_(False)


@contextmanager
def start(path: Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Iterator[Session]:
    """The model of a weights file in the given precision."""
    model = definition(path)
    with exact():
        yield session(module(path).to(checked(device), dtype), model, dtype)


def exact() -> AbstractContextManager[None]:
    """Convolutions in full FP32: on a GPU, torch would round their inputs to TF32."""
    flags: AbstractContextManager[None] = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    return flags


def devices() -> tuple[str, ...]:
    """What this torch can run on, the slowest first."""
    return ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)


def checked(device: str) -> torch.device:
    """The torch device of that name; raises MissingBackend where it cannot be used."""
    if device not in devices():
        raise MissingBackend(f"torch cannot run on {device} here", "install the gpu extra and a driver")
    return torch.device(device)


def session(module: nn.Module, model: Model, dtype: torch.dtype = torch.float32) -> Session:
    """A module as a Session; it takes its inputs in the order the model declares them."""
    names = [tensor.name for tensor in model.outputs]
    device = next((tensor.device for tensor in module.parameters()), torch.device("cpu"))

    def call(**inputs: Array) -> dict[str, Array]:
        given = [torch.from_numpy(inputs[tensor.name]).to(device) for tensor in model.inputs]
        with torch.inference_mode():
            made = module(*(tensor.to(dtype) if tensor.is_floating_point() else tensor for tensor in given))
        outputs = made if isinstance(made, (tuple, list)) else (made,)
        return {name: output.cpu().numpy() for name, output in zip(names, outputs, strict=True)}

    return call
