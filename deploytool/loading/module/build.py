"""Builds the module of a model definition: removes wrappers, and rejects modules that cannot be exported."""

from __future__ import annotations

import random
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from deploytool.errors import DeployError, StageFailed
from deploytool.host import exception_text
from deploytool.loading import factory
from deploytool.loading.graph import source
from deploytool.loading.hub import doors
from deploytool.loading.module import double_precision, pixels
from deploytool.spec import Model, SourceKind

_SEED = 0
_PARALLEL = ("DataParallel", "DistributedDataParallel", "AveragedModel")  # wrappers that call their `module`


@dataclass(frozen=True)
class BuiltModel:
    """A module in evaluation mode, and remarks about what was changed."""

    module: nn.Module
    remarks: tuple[str, ...]


def build(model: Model) -> BuiltModel:
    """Calls the factory and returns the unwrapped module on the CPU in evaluation mode; for a given graph, its module.

    Raises StageFailed for errors of the user's code, a result that is not a module, a scripted submodule, and weights
    on the meta device; BadInput for a failed import.
    """
    if factory.kind(model.factory) is SourceKind.GRAPH:
        return BuiltModel(source.module(model), ())
    with wrap_user_errors(f"{model.factory} raises", "check --arg, or fix the factory"):
        try:
            with double_precision.own_default_dtype():
                factory_result, made = _made(model)
        except ImportError as error:  # an import inside the factory
            raise factory.missing_module(model.factory, error) from error
    module, removed = _unwrap(factory_result)
    if not isinstance(module, nn.Module):
        raise StageFailed(f"{model.factory} returns a {type(module).__name__}", "return a torch.nn.Module")
    if (kind := _compiled(module)) is not None:
        problem = f"{model.factory} returns {kind}, which has no Python code to export"
        raise StageFailed(problem, "return the module that it was made from, or export an ONNX file of it")
    scripted = [name for name, part in module.named_modules() if isinstance(part, torch.jit.ScriptModule)]
    if scripted:
        problem = f"torch.onnx cannot export the scripted submodule {scripted[0]}"
        raise StageFailed(problem, "return the module unscripted")
    on_meta = [name for name, weight in (*module.named_parameters(), *module.named_buffers()) if weight.is_meta]
    if on_meta:
        problem = f"{model.factory} returns weights without data: {on_meta[0]} is on the meta device"
        raise StageFailed(problem, "build the module on the CPU, or load its weights there")
    removed += _uncompile(module)
    with wrap_user_errors(f"{model.factory}: .eval() raises", "fix the train method of the module"):
        module.eval()  # its return value is ignored: a train() of the user may return nothing
    if factory.is_zoo(model.factory):
        _set_constant_size(module, constant=not any(axis > 0 for tensor in model.inputs for axis in tensor.free_axes()))
    module = pixels.taking(module, model)
    return BuiltModel(module, tuple(dict.fromkeys(f"{model.name}: {remark}" for remark in (*made, *removed))))


def _compiled(module: nn.Module) -> str | None:
    """What a module was compiled to, as a file of TorchScript or of torch.export has it; None for one of Python."""
    if isinstance(module, torch.jit.ScriptModule):
        return "TorchScript"
    is_program = isinstance(module, torch.fx.GraphModule) and "eval" in vars(module)  # it has no other mode
    return "a program of torch.export" if is_program else None


def _made(model: Model) -> tuple[Any, tuple[str, ...]]:
    """What the factory returns, and remarks of a hub about it."""
    if doors.is_hub(model.factory):
        made = doors.make(model.factory, model.options)
        return made.module, made.remarks
    return factory.resolve(model.factory)(**model.options), ()


def _set_constant_size(module: nn.Module, *, constant: bool) -> None:
    """Sets `constant_size` of those layers that can compute with a constant image size."""
    for layer in module.modules():
        if getattr(layer, "constant_size", constant) != constant:
            layer.constant_size = constant  # type: ignore[assignment]  # nn.Module declares tensors and modules only


@contextmanager
def wrap_user_errors(what: str, remedy: str) -> Iterator[None]:
    """Converts errors of the user's code to StageFailed; KeyboardInterrupt propagates."""
    try:
        yield
    except (DeployError, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:  # user code may raise anything, including SystemExit
        raise StageFailed(f"{what} {exception_text.describe(error)}", remedy) from error


@contextmanager
def with_seed(seed: int = _SEED) -> Iterator[None]:
    """Seeds the random generators of torch, numpy and Python inside the context, and restores them after it."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        try:
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed % 2**32)
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)


def _unwrap(module: Any) -> tuple[Any, list[str]]:
    """Removes torch.compile and parallel wrappers around a module; the second value names what was removed."""
    removed = []
    while isinstance(module, nn.Module) and not isinstance(module, torch.jit.ScriptModule):
        if isinstance(inner := module._modules.get("_orig_mod"), nn.Module):
            removed.append("torch.compile wrapper removed")
        elif type(module).__name__ in _PARALLEL and isinstance(inner := module._modules.get("module"), nn.Module):
            removed.append(f"{type(module).__name__} wrapper removed")
        else:
            break
        module = inner
    return module, removed


def _uncompile(module: nn.Module) -> list[str]:
    """Removes torch.compile from the submodules of a module and from their forward methods."""
    removed = []
    for path, part in list(module.named_modules()):
        for name, child in list(part._modules.items()):
            inner, removed_here = _unwrap(child)
            if removed_here:
                part._modules[name] = inner
                removed += [f"submodule {f'{path}.{name}'.lstrip('.')}: {remark}" for remark in removed_here]
    for part in module.modules():
        if getattr(part, "_compiled_call_impl", None) is not None:
            part._compiled_call_impl = None
            removed.append("Module.compile() undone")
        original = getattr(part.forward, "_torchdynamo_orig_callable", None)
        if callable(original):
            bound = original if hasattr(original, "__self__") else types.MethodType(original, part)
            part.forward = cast("Any", bound)
            removed.append("torch.compile removed from a forward method")
    return removed
