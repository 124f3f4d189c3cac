"""Traces and freezes the model as TorchScript.

No other stage requires the file: if the model cannot be traced, frozen, saved or loaded, the run continues without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import torch
from torch import nn

from deploytool import serde
from deploytool.backends import eager, torchscript
from deploytool.errors import ResourceExhausted
from deploytool.host import disk, memory
from deploytool.loading.stage_inputs import StageInputs
from deploytool.model_checks import baked_values as fixing
from deploytool.model_checks import source_lines
from deploytool.parity import metrics, reference_cases
from deploytool.parity.reference_cases import ReferenceCases
from deploytool.results import baked_values
from deploytool.results.artifact import REASON, Notes
from deploytool.rewrites.graph import weights
from deploytool.spec import Job, Model, Stage, Tensor

_EXAMPLE = 2  # golden cases to trace with: a dimension of size 1 would be taken for a fixed one
_MAX_REASON = 200  # characters of an error message of torch


def make(job: Job, out: Path, inputs: StageInputs) -> Notes:
    """Writes the frozen trace, with the names of its inputs and outputs as extra files in the archive.

    The note `baked_values` lists the lines of the model whose values the trace fixed. If TorchScript does not support
    the model, or a fixed value makes the trace wrong, no file is written and the notes contain the reason.
    """
    source = inputs.source()
    model, file = source.definition, source.weights
    sample, folder = inputs.golden(), source_lines.source_folder(model.factory)
    example = tuple(torch.from_numpy(sample.inputs[tensor.name][: _batch(model)]) for tensor in model.inputs)
    names = {"inputs": _names(model.inputs), "outputs": _names(model.outputs)}
    if isinstance(model.inputs[0].shape[0], int):
        names["batch"] = str(model.inputs[0].shape[0])

    def references() -> Sequence[ReferenceCases]:
        golden_cases = ReferenceCases("FP64", "golden cases", sample.inputs, sample.reference)
        with eager.start(file) as source:
            return reference_cases.make(model, job.options.sizes, golden_cases, source, "eager")

    try:
        with source_lines.record_tracer_warnings(folder) as warned, eager.without_attention_fastpath():
            nodes = _write(eager.exportable_module(eager.load_module(file), model, example), example, out, names)
            memory.release_unused()
            _run(out, example)
        fresh = eager.exportable_module(eager.load_module(file), model, example)
        subject = fixing.Subject(fresh, model, sample.inputs, folder, _batch(model))
        tolerance = metrics.tolerances(sample.noise, job.options.tolerance).fp32
        start = partial(torchscript.start, out)
        baked = fixing.examine(Stage.TORCHSCRIPT, subject, start, warned, references, tolerance)
    except ResourceExhausted:
        raise
    except Exception as error:  # torch.jit raises errors of any class
        return _left_out(out, f"TorchScript does not support the model: {_reason(error)}")
    if lines := baked_values.wrong_lines(baked):
        return _left_out(out, lines[0])
    return {"nodes": nodes, "baked_values": serde.encode(baked)}


def _batch(model: Model) -> int:
    """The number of golden cases to trace with: the batch size of the model if it is fixed."""
    batch = model.inputs[0].shape[0]
    return batch if isinstance(batch, int) else _EXAMPLE


def _left_out(out: Path, reason: str) -> Notes:
    """Removes the file and returns the notes of a run without it."""
    out.unlink(missing_ok=True)
    return {REASON: reason, "remarks": [f"left out: {reason}"]}


def _write(module: nn.Module, example: tuple[torch.Tensor, ...], out: Path, names: dict[str, str]) -> int:
    """Writes the trace; returns the number of its nodes.

    A trace is frozen unless its weights are large: torch keeps the constants of a frozen one until the process ends.
    """
    frozen = _trace(module, example)
    size = sum(weight.nbytes for weight in module.state_dict().values())
    if size > weights.MAX_INLINE_BYTES:
        with disk.writing(out, needed=size):
            torch.jit.save(frozen, str(out), _extra_files=names)
    else:
        frozen = torch.jit.freeze(frozen)
        # with a path, torch aborts the process if the disk is full; with a file, it holds all of the content
        with disk.writing(out), out.open("wb") as file:
            torch.jit.save(frozen, file, _extra_files=names)
    return sum(1 for _ in frozen.graph.nodes())


def _run(out: Path, example: tuple[torch.Tensor, ...]) -> None:
    """Loads and runs the file, because torch can save what it cannot load."""
    with torch.inference_mode():
        torch.jit.load(out, map_location="cpu")(*(tensor.clone() for tensor in example))  # type: ignore[no-untyped-call]  # the same


def _trace(module: nn.Module, example: tuple[torch.Tensor, ...]) -> torch.jit.ScriptModule:
    """The trace, made in a thread of its own: torch saves the stack of all callers in the file.

    So the bytes do not depend on whether the command line, Python or a sweep called the stage.
    """
    with ThreadPoolExecutor(1) as pool:
        trace: torch.jit.ScriptModule = pool.submit(torch.jit.trace, module, example, check_trace=False).result()
    return trace


def _reason(error: Exception) -> str:
    """The first sentence of an error: torch.jit appends advice and stack traces."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0].split(". ")[0] if lines else type(error).__name__)[:_MAX_REASON].rstrip(".:")


def _names(tensors: Iterable[Tensor]) -> str:
    return " ".join(tensor.name for tensor in tensors)
