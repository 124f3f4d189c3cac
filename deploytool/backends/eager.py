"""The model as PyTorch runs it, line by line: the source that every artifact is held against."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.overrides import TorchFunctionMode

from deploytool import factory, plain, weights_file
from deploytool.backends import Array, Session
from deploytool.errors import MissingBackend, StageFailed
from deploytool.spec import Model


def fingerprint() -> str:
    """The version of torch."""
    return f"torch {torch.__version__}"


def save(module: nn.Module, model: Model, path: Path) -> None:
    """Writes the weights together with the definition they belong to, so that one file is the whole model.

    Weights that layers share are written for each. Raises StageFailed if the model's state is more than tensors.
    """
    state = module.state_dict()
    odd = next((name for name, value in state.items() if not isinstance(value, torch.Tensor)), None)
    if odd:
        raise StageFailed(f"{model.name} keeps a {type(state[odd]).__name__} in its state: {odd}", "keep only tensors")
    own = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in state.items()}
    save_file(own, path, metadata={"model": json.dumps(plain.encode(model))})


def module(path: Path) -> nn.Module:
    """The model of a weights file, on the CPU, in evaluation mode; what it draws beside its weights is always alike."""
    model = weights_file.definition(path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made: nn.Module = factory.resolve(model.factory)(**model.options)
    made.load_state_dict(load_file(path))
    return made.eval().requires_grad_(False)


@contextmanager
def start(path: Path, device: str = "cpu", double: bool = False) -> Iterator[Session]:
    """The model of a weights file as it is, or with all that is floating-point in FP64."""
    model, made = weights_file.definition(path), module(path).to(checked(device))
    with exact():
        yield session(made.double() if double else made, model, double)


def exact() -> AbstractContextManager[None]:
    """Convolutions in full FP32: on a GPU, torch would round their inputs to TF32."""
    flags: AbstractContextManager[None] = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    return flags


def devices() -> tuple[str, ...]:
    """What this torch can run on, the slowest first."""
    return ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)


def threads() -> int:
    """How many threads torch computes with on a CPU."""
    return torch.get_num_threads()


@contextmanager
def on_threads(count: int) -> Iterator[None]:
    """Torch computes with so many threads on a CPU until this ends."""
    usual = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(usual)


def checked(device: str) -> torch.device:
    """The torch device of that name; raises MissingBackend where it cannot be used."""
    if device not in devices():
        raise MissingBackend(f"torch cannot run on {device} here", "install the gpu extra and a driver")
    return torch.device(device)


def session(module: nn.Module, model: Model, double: bool = False) -> Session:
    """A module as a Session; it takes its inputs in the order the model declares them."""
    names = [tensor.name for tensor in model.outputs]
    device = next((tensor.device for tensor in module.parameters()), torch.device("cpu"))

    def call(**inputs: Array) -> dict[str, Array]:
        given = {tensor.name: torch.from_numpy(inputs[tensor.name]).to(device) for tensor in model.inputs}
        outputs = run(module, model, given, double)
        return {name: output.cpu().numpy() for name, output in zip(names, outputs, strict=True)}

    return call


def run(
    module: nn.Module, model: Model, given: Mapping[str, torch.Tensor], double: bool = False
) -> Sequence[torch.Tensor]:
    """The outputs of a module; raises StageFailed if it fails on these inputs, or gives no tensors of their batch."""
    fed = [tensor.double() if double and tensor.is_floating_point() else tensor for tensor in given.values()]
    try:
        with torch.inference_mode(), _in_double() if double else nullcontext():
            made = module(*fed)
    except Exception as error:  # the user's own code may raise anything
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in given.items())
        reason = " ".join((str(error) or type(error).__name__).split())
        what = f"{model.name} does not run on {shapes}{' in FP64' if double else ''}"
        raise StageFailed(f"{what}: {reason}", "mend it, or declare other inputs: --input") from error
    outputs = made if isinstance(made, (tuple, list)) and made else [made]
    for output in outputs:
        if not isinstance(output, torch.Tensor):
            where = "" if output is made else " among its outputs"
            raise StageFailed(
                f"{model.name} gives a {type(output).__name__}{where}", "return a tensor, or a tuple of tensors"
            )
        if output.shape[:1] != fed[0].shape[:1]:
            what = f"{model.name} gives a tensor {tuple(output.shape)} for a batch of {len(fed[0])}"
            raise StageFailed(what, "put the batch first in every output, and keep it there")
    return outputs


@contextmanager
def _in_double() -> Iterator[None]:
    """Whatever the model's own code makes or asks for in FP32, it gets in FP64."""
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _Doubled():
            yield
    finally:
        torch.set_default_dtype(usual)


class _Doubled(TorchFunctionMode):
    """Turns every FP32 in a call of torch into FP64."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        func = torch.Tensor.double if func is torch.Tensor.float else func
        named = {name: _doubled(value) for name, value in (kwargs or {}).items()}
        return func(*map(_doubled, args), **named)


def _doubled(value: Any) -> Any:
    return torch.float64 if value is torch.float32 else value
