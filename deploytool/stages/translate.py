"""Translates the PyTorch model to ONNX: one self-contained file, stable names, free batch, always the same bytes."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch

from deploytool import backends, golden, weights_file
from deploytool.artifact import Given, Kind, Notes
from deploytool.backends import eager
from deploytool.errors import StageFailed
from deploytool.exporters import dynamo, torchscript
from deploytool.golden import Golden
from deploytool.measure import parity, trial
from deploytool.measure.trial import Question
from deploytool.plain import Json
from deploytool.spec import AUTO, Job

_EXPORTERS = {"torchscript": torchscript.export, "dynamo": dynamo.export}
_NOISE = 4.0  # errors up to so many times the noise are equal: another order of sums moves them as far
_FREE = ("Constant", "Identity")  # nodes that cost nothing where the graph runs


@dataclass(frozen=True)
class _Candidate:
    """What one exporter made of the model: its error against FP64, and why it cannot be kept, if it cannot."""

    exporter: str
    graph: onnx.ModelProto | None = None
    max_error: float | None = None
    why: str = ""


def make(job: Job, out: Path, given: Given) -> Notes:
    """Writes the graph of the exporter that was chosen, or with "auto" the better proved of both.

    Raises StageFailed if that exporter refuses the model, or with "auto" if no exporter's graph holds.
    """
    weights = given.latest(Kind.WEIGHTS).path
    sample = golden.read(given.latest(Kind.GOLDEN).path)
    if job.options.exporter != AUTO:
        graph = _translated(job.options.exporter, weights, sample, job.options.opset)
        _write(graph, out)
        return {"exporter": job.options.exporter, **_size(graph)}
    asked = _questions(job, weights, sample)
    tried = [_candidate(exporter, job, weights, sample, asked, out) for exporter in _EXPORTERS]
    kept, why = _better(tried, sample.noise.fp32.max_error)
    assert kept.graph is not None  # what holds has one
    _write(kept.graph, out)
    remark = f"kept the graph of the {kept.exporter} exporter ({_told(kept)}): {why}"
    facts: list[Json] = [_facts(candidate, kept) for candidate in tried]
    return {"exporter": kept.exporter, **_size(kept.graph), "candidates": facts, "remarks": [remark]}


def _translated(exporter: str, weights: Path, sample: Golden, opset: int) -> onnx.ModelProto:
    module, model = eager.module(weights), weights_file.definition(weights)
    example = tuple(_two(sample.inputs[tensor.name]) for tensor in model.inputs)
    with _quiet():
        try:
            graph = _EXPORTERS[exporter](module, model, example, opset)
            _clean(graph)
            onnx.checker.check_model(graph, full_check=True)
        except Exception as error:  # whatever an exporter raises, the user's model was refused
            other = "dynamo" if exporter == "torchscript" else "torchscript"
            raise StageFailed(
                f"the {exporter} exporter refuses the model: {_reason(error)}", f"try --exporter {other}"
            ) from error
    return graph


def _reason(error: Exception) -> str:
    """The first line of what was raised first: dynamo's own error only says in which of its steps that was."""
    first = error.__cause__ or error
    lines = str(first).strip().splitlines()
    return lines[0] if lines else type(first).__name__


def _two(cases: npt.NDArray[Any]) -> torch.Tensor:
    """Two cases: a batch of one would be taken for a fixed size."""
    return torch.from_numpy(np.resize(cases, (2, *cases.shape[1:])))


def _write(graph: onnx.ModelProto, out: Path) -> None:
    out.write_bytes(graph.SerializeToString(deterministic=True))


def _size(graph: onnx.ModelProto) -> dict[str, Json]:
    return {"opset": graph.opset_import[0].version, "nodes": len(graph.graph.node)}


def _questions(job: Job, weights: Path, sample: Golden) -> tuple[Question, ...]:
    """All golden cases with the FP64 answers; other batches and the corners of free sizes with the eager model's."""
    with eager.start(weights) as source:
        more = trial.questions(weights_file.definition(weights), job.options.sizes, sample.inputs, source, "eager")
    return (Question("FP64", sample.inputs, sample.reference), *more)


def _candidate(
    exporter: str, job: Job, weights: Path, sample: Golden, asked: Sequence[Question], out: Path
) -> _Candidate:
    """Translates and tries; whatever goes wrong is the reason not to keep it."""
    try:
        graph = _translated(exporter, weights, sample, job.options.opset)
    except StageFailed as error:
        return _Candidate(exporter, why=str(error))
    _write(graph, out)
    tolerance = parity.tolerances(sample.noise, job.options.tolerance).fp32
    try:
        with backends.load(job.options.runner).start(out) as session:
            checks = trial.marks(session, asked, tolerance)
    except StageFailed as error:
        said = " ".join(str(error).replace(str(out), "it").split())
        return _Candidate(exporter, graph, why=f"the graph of the {exporter} exporter does not hold: {said}")
    wrong = [f"{check.parity.max_error:.1e} against {check.against}" for check in checks if check.broken]
    why = f"the graph of the {exporter} exporter is wrong: error {wrong[0]}" if wrong else ""
    return _Candidate(exporter, graph, checks[0].parity.max_error, why)


def _better(tried: Sequence[_Candidate], noise: float) -> tuple[_Candidate, str]:
    """Of those that hold the more exact one, of equally exact ones the one with fewer operations, else the first.

    Raises StageFailed if none holds.
    """
    hold = [candidate for candidate in tried if not candidate.why]
    if not hold:
        raise StageFailed("; ".join(candidate.why for candidate in tried), backends.FIXED)
    best = min(hold, key=lambda candidate: (_excess(candidate, noise), _operations(candidate)))
    (other,) = (candidate for candidate in tried if candidate is not best)
    if other.why:
        return best, other.why
    if _excess(other, noise) > _excess(best, noise):
        what = "less exact"
    else:
        what = "as exact and less simple" if _operations(other) > _operations(best) else "no better"
    return best, f"that of the {other.exporter} exporter is {what} ({_told(other)})"


def _excess(candidate: _Candidate, noise: float) -> float:
    """The error, where it is more than noise."""
    error = candidate.max_error or 0.0
    return error if error > _NOISE * noise else 0.0


def _operations(candidate: _Candidate) -> int:
    nodes = candidate.graph.graph.node if candidate.graph else ()
    return sum(node.op_type not in _FREE for node in nodes)


def _told(candidate: _Candidate) -> str:
    return f"{_operations(candidate)} operations, error {candidate.max_error:.1e}"


def _facts(candidate: _Candidate, kept: _Candidate) -> Json:
    verdict = "kept" if candidate is kept else "failed" if candidate.why else "held"
    nodes = len(candidate.graph.graph.node) if candidate.graph else None
    facts = {"exporter": candidate.exporter, "nodes": nodes, "max_error": candidate.max_error}
    return {**facts, "verdict": verdict, "why": candidate.why}


def _clean(graph: onnx.ModelProto) -> None:
    """Takes out what an exporter leaves for debugging: stack traces and sources with the paths of this machine."""
    del graph.metadata_props[:]
    graph.doc_string = ""
    inner = graph.graph
    for part in (inner, *inner.node, *inner.input, *inner.output, *inner.value_info, *inner.initializer):
        del part.metadata_props[:]
        part.doc_string = ""


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps both exporters' chatter off stdout, stderr and the log; what matters they raise."""
    disabled, printed = logging.root.manager.disable, torch._C._jit_onnx_log
    torch._C._jit_onnx_log = lambda *said: None  # C++ would print the whole graph, past redirect_stdout
    logging.disable()
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        torch._C._jit_onnx_log = printed
        logging.disable(disabled)
