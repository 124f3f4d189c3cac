"""The model as PyTorch runs it, line by line: the source that every artifact is held against."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from deploytool import serde
from deploytool.backends.session import Array, Session
from deploytool.errors import DeployError, MissingBackend, StageFailed
from deploytool.host import disk, exception_text
from deploytool.loading import weights_file
from deploytool.loading.module import arguments, build, fp64, outputs
from deploytool.loading.module import exportable as exporting
from deploytool.loading.module.exportable import select_outputs, without_attention_fastpath
from deploytool.loading.module.outputs import NamedTensors
from deploytool.spec import Model

__all__ = [
    "call_module",
    "exportable",
    "load_module",
    "load_state",
    "make_session",
    "named_outputs",
    "run",
    "save",
    "start",
    "without_attention_fastpath",
]


def fingerprint() -> str:
    """The version of torch."""
    return f"torch {torch.__version__}"


def save(state: Mapping[str, Any], model: Model, path: Path) -> None:
    """Writes a state dict together with the definition it belongs to, so that one file is the whole model.

    Weights that layers share are written for each. Raises StageFailed if the state is more than tensors.
    """
    check(state, model)
    own = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in state.items()}
    with disk.writing(path, needed=sum(tensor.nbytes for tensor in own.values())):
        save_file(own, path, metadata={"model": json.dumps(serde.encode(model))})


def check(state: Mapping[str, Any], model: Model) -> None:
    """Raises StageFailed if a state is more than tensors: no file of weights could hold it."""
    odd = next((name for name, value in state.items() if not isinstance(value, torch.Tensor)), None)
    if odd:
        raise StageFailed(f"{model.name} keeps a {type(state[odd]).__name__} in its state: {odd}", "keep only tensors")


def load_module(path: Path) -> nn.Module:
    """The model of a weights file, on the CPU, in evaluation mode; what it draws beside its weights is always alike."""
    return load_state(weights_file.definition(path), load_file(path))


def load_state(model: Model, state: Mapping[str, torch.Tensor]) -> nn.Module:
    """A model with these weights, as `load_module` gives it; raises StageFailed if it is another than they were of."""
    with build.with_seed():
        made = build.build(model).module
    with build.wrap_user_errors(f"{model.name} does not take its own weights:", "export again"):
        made.load_state_dict(state)
    return made.requires_grad_(False)


@contextmanager
def start(path: Path, device: str = "cpu", double: bool = False) -> Iterator[Session]:
    """The model of a weights file as it is, or with all that is floating-point in FP64."""
    model, made = weights_file.definition(path), load_module(path).to(checked_device(device))
    with build.wrap_user_errors(f"{model.name} has no FP64:", "see its message") if double else nullcontext():
        made = made.double() if double else made
    with full_fp32():
        yield make_session(made, model, double)


def full_fp32() -> AbstractContextManager[None]:
    """Convolutions in full FP32: on a GPU, torch would round their inputs to TF32."""
    flags: AbstractContextManager[None] = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    return flags


def devices() -> tuple[str, ...]:
    """What this torch can run on, the slowest first."""
    return ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)


def thread_count() -> int:
    """How many threads torch computes with on a CPU."""
    return torch.get_num_threads()


@contextmanager
def using_threads(count: int) -> Iterator[None]:
    """Torch computes with so many threads on a CPU until this ends."""
    usual = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(usual)


def checked_device(device: str) -> torch.device:
    """The torch device of that name; raises MissingBackend where it cannot be used."""
    if device not in devices():
        raise MissingBackend(f"torch cannot run on {device} here", "install the gpu extra and a driver")
    return torch.device(device)


def exportable(module: nn.Module, model: Model, example: Sequence[torch.Tensor]) -> nn.Module:
    """The module as exporters take it: `model`'s inputs by position, its outputs flat; `example` is one of its inputs.

    Raises StageFailed if it fails on that.
    """
    given = dict(zip((tensor.name for tensor in model.inputs), example, strict=True))
    return exporting.exportable(module, model, call_module(module, model, given))


def make_session(module: nn.Module, model: Model, double: bool = False) -> Session:
    """A module as a Session: inputs go to the parameters of their names, and no array is shared with the model."""
    names = [tensor.name for tensor in model.outputs]
    device = next((tensor.device for tensor in module.parameters()), torch.device("cpu"))

    def call(**inputs: Array) -> dict[str, Array]:
        given = {tensor.name: torch.from_numpy(inputs[tensor.name]).to(device) for tensor in model.inputs}
        made = run(module, model, given, double)
        return {name: output.cpu().numpy() for name, output in zip(names, made, strict=True)}

    return call


def run(
    module: nn.Module, model: Model, given: Mapping[str, torch.Tensor], double: bool = False
) -> Sequence[torch.Tensor]:
    """The outputs of a module for copies of its inputs, in the order of the model's, all of one batch.

    Raises StageFailed if it fails on these inputs, or gives other tensors than those of their batch.
    """
    size, cases = model.inputs[0].shape[0], len(next(iter(given.values())))
    if isinstance(size, int) and cases != size:
        return _in_parts(module, model, given, double, size)
    made = call_module(module, model, given, double)
    found = list(named_outputs(made, model).tensors.values()) if not model.outputs else select_outputs(made, model)
    for tensor in found:
        check_batch(tensor, model, cases)
    return [fp64.to_fp64(tensor) if double else tensor for tensor in map(_own, found)]


def named_outputs(made: Any, model: Model) -> NamedTensors:
    """What a model made, flattened; raises StageFailed if no tensor is in it."""
    found = outputs.flatten(made, [tensor.name for tensor in model.inputs])
    if not found.tensors:
        raise StageFailed(f"{model.name} gives a {type(made).__name__}", "return a tensor, or a structure of tensors")
    return found


def check_batch(tensor: torch.Tensor, model: Model, cases: int) -> None:
    """Raises StageFailed for an output whose first dimension is not the batch."""
    if tensor.shape[:1] != (cases,):
        what = f"{model.name} gives a tensor {tuple(tensor.shape)} for a batch of {cases}"
        remedy = "put the batch first in every output, and keep it there, or choose others: --output NAME"
        raise StageFailed(what, remedy)


def call_module(
    module: nn.Module,
    model: Model,
    given: Mapping[str, torch.Tensor],
    double: bool = False,
    *,
    copies: bool = True,
) -> Any:
    """What a module makes of copies of its inputs, or of themselves; raises StageFailed if it fails on them."""
    fed = {tensor.name: _fed(given[tensor.name], double) if copies else given[tensor.name] for tensor in model.inputs}
    bound = arguments.bind(module.forward, list(fed))
    try:
        with torch.no_grad(), fp64.run() if double else nullcontext():
            return bound.call(module, fed)
    except (DeployError, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:  # the user's own code may raise anything, SystemExit too
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in given.items())
        what = f"{model.name} does not run on {shapes}{' in FP64' if double else ''}"
        raise StageFailed(f"{what}: {_said(error)}", _remedy(module, double)) from error


def _remedy(module: nn.Module, double: bool) -> str:
    """What helps a module that fails on its inputs: mostly weights of another type than they have."""
    types = {each.dtype for each in module.parameters() if each.is_floating_point()} - {torch.float32}
    if types and not double:
        found = str(types.pop()).removeprefix("torch.")
        return f"some of its weights are {found}: let the factory return it with .float()"
    return "mend it, or declare other inputs: --input"


def _said(error: BaseException) -> str:
    """What was raised; that it is a RuntimeError, as nearly all of torch's are, says nothing."""
    return exception_text.describe(error, kind=type(error) is not RuntimeError)


def _fed(tensor: torch.Tensor, double: bool) -> torch.Tensor:
    """A copy, in the same layout: the model may write into it."""
    return tensor.to(torch.float64, copy=True) if double and tensor.is_floating_point() else tensor.clone()


def _own(tensor: torch.Tensor) -> torch.Tensor:
    """An answer that no later call changes."""
    return tensor.detach().clone()


def _in_parts(
    module: nn.Module, model: Model, given: Mapping[str, torch.Tensor], double: bool, size: int
) -> Sequence[torch.Tensor]:
    """The outputs of a model that takes batches of one size alone; the last is filled up with the first cases."""
    cases = len(next(iter(given.values())))
    parts = []
    for start in range(0, cases, size):
        places = torch.arange(start, start + size) % cases
        parts.append(run(module, model, {name: tensor[places] for name, tensor in given.items()}, double))
    return [torch.cat(each)[:cases] for each in zip(*parts, strict=True)]
