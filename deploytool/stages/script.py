"""Traces and freezes the model as TorchScript: a file that is shipped and measured, never a step towards ONNX."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path

import torch

from deploytool import golden, weights_file
from deploytool.artifact import Given, Kind, Notes
from deploytool.backends import eager
from deploytool.errors import StageFailed
from deploytool.spec import Job, Tensor

_EXAMPLE = 2  # golden cases to trace with: a batch of one would be taken for a fixed size


def make(job: Job, out: Path, given: Given) -> Notes:
    """Writes the frozen trace; the names of its inputs and outputs travel inside the file.

    `fixed_at_export` are the lines of the model whose Python numbers the tracer cannot follow. Raises StageFailed if
    it refuses the model.
    """
    weights = given.latest(Kind.WEIGHTS).path
    module, model = eager.module(weights), weights_file.definition(weights)
    sample = golden.read(given.latest(Kind.GOLDEN).path)
    example = tuple(torch.from_numpy(sample.inputs[tensor.name][:_EXAMPLE]) for tensor in model.inputs)
    names = {"inputs": _names(model.inputs), "outputs": _names(model.outputs)}
    with warnings.catch_warnings(record=True) as caught:  # torch.jit is deprecated as a whole; users still ask for it
        warnings.simplefilter("always")
        try:
            frozen = torch.jit.freeze(torch.jit.trace(module, example, check_trace=False))  # type: ignore[no-untyped-call]  # torch.jit has no types
        except Exception as error:  # whatever the tracer raises, the user's model was refused
            reason = " ".join((str(error) or type(error).__name__).split())
            raise StageFailed(f"TorchScript refuses the model: {reason}", "mend the model") from error
        torch.jit.save(frozen, out, _extra_files=names)
    fixed = [warning for warning in caught if issubclass(warning.category, torch.jit.TracerWarning)]  # type: ignore[attr-defined]  # torch.jit has no types
    places = dict.fromkeys(f"{Path(warning.filename).name}:{warning.lineno}" for warning in fixed)
    return {"nodes": sum(1 for _ in frozen.graph.nodes()), "fixed_at_export": list(places)}


def _names(tensors: Iterable[Tensor]) -> str:
    return " ".join(tensor.name for tensor in tensors)
