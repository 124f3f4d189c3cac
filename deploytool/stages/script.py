"""Traces and freezes the model as TorchScript: a file that is shipped and measured, never a step towards ONNX.

Nothing needs it, so a model that cannot be traced, frozen, saved or read again goes on without it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn

from deploytool import golden, weights_file
from deploytool.artifact import UNAVAILABLE, Given, Kind, Notes
from deploytool.backends import eager
from deploytool.spec import Job, Tensor

_EXAMPLE = 2  # golden cases to trace with: a batch of one would be taken for a fixed size
_LONGEST = 200  # characters of a foreign reason


def make(job: Job, out: Path, given: Given) -> Notes:
    """Writes the frozen trace; the names of its inputs and outputs travel inside the file.

    `fixed_at_export` are the lines of the model whose Python numbers the tracer cannot follow. Where TorchScript does
    not take the model no file is written, and the notes say why.
    """
    weights = given.latest(Kind.WEIGHTS).path
    module, model = eager.module(weights), weights_file.definition(weights)
    sample = golden.read(given.latest(Kind.GOLDEN).path)
    example = tuple(torch.from_numpy(sample.inputs[tensor.name][:_EXAMPLE]) for tensor in model.inputs)
    names = {"inputs": _names(model.inputs), "outputs": _names(model.outputs)}
    with warnings.catch_warnings(record=True) as caught:  # torch.jit is deprecated as a whole; users still ask for it
        warnings.simplefilter("always")
        try:
            nodes = _written(module, example, out, names)
        except Exception as error:  # whatever torch.jit raises, it does not take the user's model
            out.unlink(missing_ok=True)
            why = f"TorchScript does not take the model: {_reason(error)}"
            return {UNAVAILABLE: why, "remarks": [f"left out, {why}"]}
    fixed = [warning for warning in caught if issubclass(warning.category, torch.jit.TracerWarning)]  # type: ignore[attr-defined]  # torch.jit has no types
    places = dict.fromkeys(f"{Path(warning.filename).name}:{warning.lineno}" for warning in fixed)
    return {"nodes": nodes, "fixed_at_export": list(places)}


def _written(module: nn.Module, example: tuple[torch.Tensor, ...], out: Path, names: dict[str, str]) -> int:
    """Writes the trace and reads it again, for torch saves what it cannot read; gives the number of its nodes."""
    frozen = torch.jit.freeze(torch.jit.trace(module, example, check_trace=False))  # type: ignore[no-untyped-call]  # torch.jit has no types
    torch.jit.save(frozen, out, _extra_files=names)
    with torch.inference_mode():
        torch.jit.load(out, map_location="cpu")(*(tensor.clone() for tensor in example))  # type: ignore[no-untyped-call]  # the same
    return sum(1 for _ in frozen.graph.nodes())


def _reason(error: Exception) -> str:
    """The first sentence of what was raised: advice and the stacks of torch.jit follow it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0].split(". ")[0] if lines else type(error).__name__)[:_LONGEST].rstrip(".:")


def _names(tensors: Iterable[Tensor]) -> str:
    return " ".join(tensor.name for tensor in tensors)
