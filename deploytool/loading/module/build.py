"""Builds the model of a definition: what wraps it is taken off, what nobody can export is refused."""

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
from deploytool.spec import Model

_SEED = 0
_PARALLEL = ("DataParallel", "DistributedDataParallel", "AveragedModel")  # wrappers that call their `module`


@dataclass(frozen=True)
class BuiltModel:
    """A module in evaluation mode, and what was done to it that one should know."""

    module: nn.Module
    remarks: tuple[str, ...]


def build(model: Model) -> BuiltModel:
    """What the factory makes, unwrapped, on the CPU, in evaluation mode.

    Raises StageFailed for whatever the user's code raises, for what is no module, and for a scripted part; BadInput for
    an import that fails.
    """
    with wrap_user_errors(f"{model.factory} raises", "see --arg, or mend it"):
        try:
            made = factory.resolve(model.factory)(**model.options)
        except ImportError as error:  # of what the factory imports only where it is called
            raise factory.missing_module(model.factory, error) from error
    module, taken = _bare(made)
    if not isinstance(module, nn.Module) or isinstance(module, torch.jit.ScriptModule):
        raise StageFailed(f"{model.factory} gives a {type(module).__name__}", "return a torch.nn.Module")
    scripted = [name for name, part in module.named_modules() if isinstance(part, torch.jit.ScriptModule)]
    if scripted:
        problem = f"torch.onnx cannot export a model with a scripted part called {scripted[0]}"
        raise StageFailed(problem, "return it unscripted")
    hollow = [name for name, weight in (*module.named_parameters(), *module.named_buffers()) if weight.is_meta]
    if hollow:
        problem = f"{model.factory} gives weights without numbers: {hollow[0]} is on the meta device"
        raise StageFailed(problem, "make it on the CPU, or load its weights there")
    taken += _uncompile(module)
    with wrap_user_errors(f"{model.factory}: .eval() raises", "mend it"):
        module.eval()  # what it returns is the user's affair: train() may be their own
    return BuiltModel(module, tuple(dict.fromkeys(f"{model.name} comes {each}" for each in taken)))


@contextmanager
def wrap_user_errors(what: str, remedy: str) -> Iterator[None]:
    """Turns whatever the user's code raises into one StageFailed; an interruption stays one."""
    try:
        yield
    except (DeployError, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:  # the user's own code may raise anything, SystemExit too
        raise StageFailed(f"{what} {exception_text.describe(error)}", remedy) from error


@contextmanager
def with_seed(seed: int = _SEED) -> Iterator[None]:
    """Whatever is drawn inside, by torch, numpy or Python, is always alike; outside nothing has changed."""
    pythons, numpys = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        try:
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed % 2**32)
            yield
        finally:
            random.setstate(pythons)
            np.random.set_state(numpys)


def _bare(made: Any) -> tuple[Any, list[str]]:
    """The model inside what torch.compile and the parallel wrappers make of it, and what was taken off."""
    taken = []
    while isinstance(made, nn.Module) and not isinstance(made, torch.jit.ScriptModule):
        if isinstance(inner := made._modules.get("_orig_mod"), nn.Module):
            taken.append("out of torch.compile: the module inside is taken")
        elif type(made).__name__ in _PARALLEL and isinstance(inner := made._modules.get("module"), nn.Module):
            taken.append(f"in a {type(made).__name__}: the module inside is taken")
        else:
            break
        made = inner
    return made, taken


def _uncompile(module: nn.Module) -> list[str]:
    """Takes torch.compile off the parts of a module and off their forward functions."""
    taken = []
    for path, part in list(module.named_modules()):
        for name, child in list(part._modules.items()):
            inner, peeled = _bare(child)
            if peeled:
                part._modules[name] = inner
                taken += [f"with {f'{path}.{name}'.lstrip('.')} {each}" for each in peeled]
    for part in module.modules():
        if getattr(part, "_compiled_call_impl", None) is not None:
            part._compiled_call_impl = None
            taken.append("compiled: it is taken uncompiled")
        plain = getattr(part.forward, "_torchdynamo_orig_callable", None)
        if callable(plain):
            bound = plain if hasattr(plain, "__self__") else types.MethodType(plain, part)
            part.forward = cast("Any", bound)
            taken.append("with a compiled forward: it is taken uncompiled")
    return taken
