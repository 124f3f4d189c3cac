"""Traces and freezes the model as TorchScript: a file that is shipped and measured, never a step towards ONNX.

Nothing needs it, so a model that cannot be traced, frozen, saved or read again goes on without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import nn

from deploytool import serde
from deploytool.backends import eager, torchscript
from deploytool.errors import ResourceExhausted
from deploytool.host import disk
from deploytool.loading.stage_inputs import StageInputs
from deploytool.model_checks import baked_values as fixing
from deploytool.model_checks import source_lines
from deploytool.parity import metrics, reference_cases
from deploytool.parity.reference_cases import ReferenceCases
from deploytool.results import baked_values
from deploytool.results.artifact import REASON, Notes
from deploytool.spec import Job, Model, Stage, Tensor

_EXAMPLE = 2  # golden cases to trace with: a batch of one would be taken for a fixed size
_LONGEST = 200  # characters of a foreign reason


def make(job: Job, out: Path, inputs: StageInputs) -> Notes:
    """Writes the frozen trace; the names of its inputs and outputs travel inside the file.

    `fixed` are the lines of the model that the trace knows only as they went at export. Where TorchScript does not take
    the model, or one of these lines makes the trace another model, no file is left, and the notes say why.
    """
    source = inputs.source()
    model, weights = source.definition, source.weights
    sample, home = inputs.golden(), source_lines.source_folder(model.factory)
    example = tuple(torch.from_numpy(sample.inputs[tensor.name][: _batch(model)]) for tensor in model.inputs)
    names = {"inputs": _names(model.inputs), "outputs": _names(model.outputs)}
    if isinstance(model.inputs[0].shape[0], int):
        names["batch"] = str(model.inputs[0].shape[0])

    def asked() -> Sequence[ReferenceCases]:
        with eager.start(weights) as source:
            return reference_cases.make(model, job.options.sizes, sample.inputs, source, "eager")

    try:
        module = eager.exportable_module(eager.load_module(weights), model, example)
        with source_lines.record_tracer_warnings(home) as warned, eager.without_attention_fastpath():
            nodes = _written(module, example, out, names)
        fresh = eager.exportable_module(eager.load_module(weights), model, example)
        subject = fixing.Subject(fresh, model, sample.inputs, home, _batch(model))
        tolerance = metrics.tolerances(sample.noise, job.options.tolerance).fp32
        found = fixing.examine(Stage.TORCHSCRIPT, subject, partial(torchscript.start, out), warned, asked, tolerance)
    except ResourceExhausted:
        raise
    except Exception as error:  # whatever torch.jit raises, it does not take the user's model
        return _left_out(out, f"TorchScript does not take the model: {_reason(error)}")
    if lines := baked_values.wrong_lines(found):
        return _left_out(out, lines[0])
    return {"nodes": nodes, "baked_values": serde.encode(found)}


def _batch(model: Model) -> int:
    """How many golden cases to trace with: the model's batch, where it takes no other."""
    batch = model.inputs[0].shape[0]
    return batch if isinstance(batch, int) else _EXAMPLE


def _left_out(out: Path, why: str) -> Notes:
    out.unlink(missing_ok=True)
    return {REASON: why, "remarks": [f"left out, {why}"]}


def _written(module: nn.Module, example: tuple[torch.Tensor, ...], out: Path, names: dict[str, str]) -> int:
    """Writes the trace and reads it again, for torch saves what it cannot read; gives the number of its nodes."""
    frozen = torch.jit.freeze(torch.jit.trace(module, example, check_trace=False))  # type: ignore[no-untyped-call]  # torch.jit has no types
    with disk.writing(out), out.open("wb") as file:  # given a path, torch ends the process where the disk is full
        torch.jit.save(frozen, file, _extra_files=names)
    with torch.inference_mode():
        torch.jit.load(out, map_location="cpu")(*(tensor.clone() for tensor in example))  # type: ignore[no-untyped-call]  # the same
    return sum(1 for _ in frozen.graph.nodes())


def _reason(error: Exception) -> str:
    """The first sentence of what was raised: advice and the stacks of torch.jit follow it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0].split(". ")[0] if lines else type(error).__name__)[:_LONGEST].rstrip(".:")


def _names(tensors: Iterable[Tensor]) -> str:
    return " ".join(tensor.name for tensor in tensors)
