"""Traces and freezes the model as TorchScript: a file that is shipped and measured, never a step towards ONNX."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path

import torch

from deploytool import golden
from deploytool.artifact import Given, Kind, Notes
from deploytool.backends import eager
from deploytool.spec import Job, Tensor


def make(job: Job, out: Path, given: Given) -> Notes:
    """Writes the frozen trace; the names of its inputs and outputs travel inside the file."""
    weights = given.latest(Kind.WEIGHTS).path
    module, model = eager.module(weights), eager.definition(weights)
    sample = golden.read(given.latest(Kind.GOLDEN).path)
    example = tuple(torch.from_numpy(sample.inputs[tensor.name]) for tensor in model.inputs)
    names = {"inputs": _names(model.inputs), "outputs": _names(model.outputs)}
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # torch.jit is deprecated as a whole; users still ask for it
        frozen = torch.jit.freeze(torch.jit.trace(module, example, check_trace=False))  # type: ignore[no-untyped-call]  # torch.jit has no types
        torch.jit.save(frozen, out, _extra_files=names)
    return {"nodes": sum(1 for _ in frozen.graph.nodes())}


def _names(tensors: Iterable[Tensor]) -> str:
    return " ".join(tensor.name for tensor in tensors)
