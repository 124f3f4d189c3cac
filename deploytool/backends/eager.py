"""Runs a PyTorch model in eager mode: the original that every artifact is compared against."""

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
from deploytool.backends.session import Array, Session, until_end
from deploytool.data import pixel_inputs
from deploytool.errors import BadInput, DeployError, MissingBackend, StageFailed
from deploytool.host import disk, exception_text
from deploytool.loading import weights_file
from deploytool.loading.module import arguments, build, double_precision, fp64, outputs
from deploytool.loading.module import exportable as exporting
from deploytool.loading.module.exportable import select_outputs, without_attention_fastpath
from deploytool.loading.module.outputs import NamedTensors
from deploytool.spec import Model

__all__ = [
    "call_module",
    "exportable_module",
    "load_module",
    "load_original",
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
    """Writes a state dict and its model definition to one safetensors file.

    Weights that layers share are written once for each layer. Raises StageFailed if the state holds more than tensors.
    """
    check_state(state, model)
    tensors, storages = dict[str, torch.Tensor](), set[int]()
    for name, tensor in state.items():
        storage = tensor.untyped_storage()
        shared = storage.data_ptr() in storages or storage.nbytes() != tensor.nbytes
        storages.add(storage.data_ptr())
        tensors[name] = tensor.clone(memory_format=torch.contiguous_format) if shared else tensor.contiguous()
    with disk.writing(path, needed=sum(tensor.nbytes for tensor in tensors.values())):
        save_file(tensors, path, metadata={"model": json.dumps(serde.encode(model))})


def check_state(state: Mapping[str, Any], model: Model) -> None:
    """Raises StageFailed if a state dict holds anything but tensors, which a weights file cannot store."""
    key = next((name for name, value in state.items() if not isinstance(value, torch.Tensor)), None)
    if key:
        quantised = "return the model as it was before torch quantised it, and add --precision int8 --calibration DIR"
        remedy = quantised if "_packed_params" in key else "keep only tensors"
        raise StageFailed(f"{model.name} has a {type(state[key]).__name__} in its state: {key}", remedy)


def load_module(path: Path, *, exact: bool = False) -> nn.Module:
    """The model of a weights file, on the CPU, in evaluation mode, built with a fixed random seed.

    FP64 weights are rounded to FP32, except with `exact`.
    """
    return load_state(weights_file.definition(path), load_file(path), exact=exact)


def load_original(path: Path) -> nn.Module:
    """The model of a weights file with its own image inputs, where that file's model takes pixels."""
    model = pixel_inputs.original(weights_file.definition(path))
    if model.given is not None:
        return build.build(model).module  # its weights are in its own file
    return load_state(model, load_file(path))


def load_state(model: Model, state: Mapping[str, torch.Tensor], *, exact: bool = False) -> nn.Module:
    """Builds a model and loads its weights, FP64 ones rounded to FP32 except with `exact`.

    Raises StageFailed if they do not fit the model.
    """
    with build.with_seed():
        module = build.build(model).module
    with build.wrap_user_errors(f"{model.name} cannot load its own weights:", "export again"):
        module = double_precision.load(module, state, exact=exact)
    return module.requires_grad_(False)


@contextmanager
def start(path: Path, device: str = "cpu", double: bool = False) -> Iterator[Session]:
    """Loads the model of a weights file; with `double`, in FP64."""
    model, module = weights_file.definition(path), load_module(path, exact=double).to(checked_device(device))
    with full_fp32(), until_end(make_session(module, model, double)) as session:
        yield session


def full_fp32() -> AbstractContextManager[None]:
    """Disables TF32 in convolutions: on a GPU, torch would round their inputs to it."""
    flags: AbstractContextManager[None] = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    return flags


def devices() -> tuple[str, ...]:
    """The devices that this torch can use, the slowest first."""
    return ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)


def thread_count() -> int:
    """The number of threads torch computes with on a CPU."""
    return torch.get_num_threads()


@contextmanager
def using_threads(count: int) -> Iterator[None]:
    """Sets the number of threads torch computes with on a CPU, and restores it at the end."""
    previous = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(previous)


def checked_device(device: str) -> torch.device:
    """The torch device of that name; raises MissingBackend if it is not available."""
    if device not in devices():
        raise MissingBackend(f"torch cannot run on {device} here", "install the gpu extra and a driver")
    return torch.device(device)


def exportable_module(module: nn.Module, model: Model, example: Sequence[torch.Tensor]) -> nn.Module:
    """The module as exporters expect it: the inputs of `model` by position, its outputs flat.

    `example` holds one tensor for each input. Raises StageFailed if the module fails on them.
    """
    inputs = dict(zip((tensor.name for tensor in model.inputs), example, strict=True))
    return exporting.exportable(module, model, call_module(module, model, inputs))


def make_session(module: nn.Module, model: Model, double: bool = False) -> Session:
    """A module as a Session: inputs go to the parameters of their names; no array shares memory with it."""
    names = [tensor.name for tensor in model.outputs]
    device = next((tensor.device for tensor in module.parameters()), torch.device("cpu"))

    def call(**inputs: Array) -> dict[str, Array]:
        tensors = {tensor.name: torch.from_numpy(inputs[tensor.name]).to(device) for tensor in model.inputs}
        results = run(module, model, tensors, double)
        return {name: output.cpu().numpy() for name, output in zip(names, results, strict=True)}

    return call


def run(
    module: nn.Module, model: Model, inputs: Mapping[str, torch.Tensor], double: bool = False
) -> Sequence[torch.Tensor]:
    """The outputs of a module for copies of its inputs, in the order of the model's outputs.

    Raises StageFailed if the module fails on these inputs, or if the first dimension of an output is not the batch.
    """
    size, cases = model.inputs[0].shape[0], len(next(iter(inputs.values())))
    if isinstance(size, int) and cases != size:
        return _run_in_batches(module, model, inputs, double, size)
    result = call_module(module, model, inputs, double)
    tensors = (
        list(named_outputs(result, model).tensors.values()) if not model.outputs else select_outputs(result, model)
    )
    for tensor in tensors:
        check_batch(tensor, model, cases)
    return [fp64.to_fp64(tensor) if double else tensor for tensor in map(_detached_copy, tensors)]


def named_outputs(result: Any, model: Model) -> NamedTensors:
    """The tensors in the result of a model, flattened; raises StageFailed if there is none."""
    flat = outputs.flatten(result, [tensor.name for tensor in model.inputs])
    if not flat.tensors:
        raise StageFailed(
            f"{model.name} returns a {type(result).__name__}", "return a tensor, or a structure of tensors"
        )
    return flat


def check_batch(tensor: torch.Tensor, model: Model, cases: int) -> None:
    """Raises StageFailed for an output whose first dimension is not the batch."""
    if tensor.shape[:1] != (cases,):
        problem = f"{model.name} returns a tensor of shape {tuple(tensor.shape)} for a batch of {cases}"
        remedy = "make the batch the first dimension of every output, or select other outputs: --output NAME"
        raise StageFailed(problem, remedy)


def call_module(
    module: nn.Module,
    model: Model,
    inputs: Mapping[str, torch.Tensor],
    double: bool = False,
    *,
    copies: bool = True,
) -> Any:
    """What a module returns for copies of its inputs, or for the inputs themselves.

    Raises StageFailed if it fails, BadInput if it reads a keyword argument that no input has the name of.
    """
    tensors = {
        tensor.name: _input_copy(inputs[tensor.name], double) if copies else inputs[tensor.name]
        for tensor in model.inputs
    }
    bound = arguments.bind(module.forward, list(tensors), model.constants)
    try:
        with torch.no_grad(), fp64.run(module) if double else nullcontext():
            return bound.call(module, tensors)
    except (DeployError, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:  # the user's own code may raise anything, SystemExit too
        if bound.undeclared and isinstance(error, KeyError) and error.args and error.args[0] not in tensors:
            problem = f"{model.name} reads the keyword argument {error.args[0]!r}, but no input has that name"
            raise BadInput(problem, "name the inputs as forward reads them: --input NAME=SIZES") from error
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in inputs.items())
        problem = f"{model.name} does not run on {shapes}{' in FP64' if double else ''}"
        raise StageFailed(f"{problem}: {_describe(error)}", _remedy(module, double)) from error


def _remedy(module: nn.Module, double: bool) -> str:
    """The remedy for a module that fails on its inputs; the usual cause is weights of another type than the inputs."""
    if double:
        return "cast to the type of the weights, as in x.to(self.weight.dtype), and not to a fixed one such as .half()"
    types = {weight.dtype for weight in module.parameters() if weight.is_floating_point()} - {torch.float32}
    if types:
        dtype = str(types.pop()).removeprefix("torch.")
        return f"some of its weights are {dtype}: let the factory return it with .float()"
    return "fix the model, or declare other inputs: --input"


def _describe(error: BaseException) -> str:
    """The text of an exception; RuntimeError is not named, because nearly all of torch's errors are one."""
    return exception_text.describe(error, kind=type(error) is not RuntimeError)


def _input_copy(tensor: torch.Tensor, double: bool) -> torch.Tensor:
    """A copy in the same memory layout: the model may write into it."""
    return tensor.to(torch.float64, copy=True) if double and tensor.is_floating_point() else tensor.clone()


def _detached_copy(tensor: torch.Tensor) -> torch.Tensor:
    """An output that no later call can change."""
    return tensor.detach().clone()


def _run_in_batches(
    module: nn.Module, model: Model, inputs: Mapping[str, torch.Tensor], double: bool, size: int
) -> Sequence[torch.Tensor]:
    """The outputs of a model with a fixed batch size; the last batch is padded with the first cases."""
    cases = len(next(iter(inputs.values())))
    results = []
    for first in range(0, cases, size):
        rows = torch.arange(first, first + size) % cases
        results.append(run(module, model, {name: tensor[rows] for name, tensor in inputs.items()}, double))
    return [torch.cat(batches)[:cases] for batches in zip(*results, strict=True)]
