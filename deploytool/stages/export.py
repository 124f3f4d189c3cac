"""Exports the PyTorch model to ONNX: one deterministic file without external data, with stable names."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from deploytool import serde
from deploytool.backends import eager
from deploytool.backends.session import FIXED_SIZE_REMEDY, load_backend
from deploytool.data.golden import Golden
from deploytool.errors import MissingBackend, ResourceExhausted, StageFailed
from deploytool.exporters import dynamo, torchscript
from deploytool.host import disk
from deploytool.loading.source_model import SourceModel
from deploytool.loading.stage_inputs import StageInputs
from deploytool.model_checks import baked_values as fixing
from deploytool.model_checks import export_blockers, source_lines
from deploytool.model_checks.source_lines import SourceLine
from deploytool.parity import metrics, noise, reference_cases
from deploytool.parity.reference_cases import ReferenceCases
from deploytool.results import baked_values, verdict
from deploytool.results.artifact import Notes
from deploytool.results.baked_values import BakedKind, BakedValue, Origin
from deploytool.results.report import Tolerance
from deploytool.rewrites.graph import free_sizes
from deploytool.serde import Json
from deploytool.spec import AUTO, DEFAULT, Job, Model, Stage

_EXPORTERS = {"torchscript": torchscript.export, "dynamo": dynamo.export}
_FIRST, _SECOND = _EXPORTERS
_NOISE = 4.0  # errors up to this multiple of the noise count as equal: another summation order causes as much
_FREE = ("Constant", "Identity")  # nodes that cost nothing at run time
_FILE = re.compile(r"\S*/graph\.onnx")  # the temporary file of an exporter
_MAX_REASON = 160  # characters of an error message of an exporter


@dataclass(frozen=True)
class _Task:
    """The model to export, its golden cases, and the file of the graph."""

    job: Job
    source: SourceModel
    sample: Golden
    out: Path

    @property
    def tolerance(self) -> Tolerance:
        """The FP32 tolerance."""
        return metrics.tolerances(self.sample.noise, self.job.options.tolerance).fp32


@dataclass(frozen=True)
class _Candidate:
    """The result of one exporter.

    `max_error`: error against the FP64 reference. `problem`: why the graph cannot be used; empty if it can.
    `warned`: lines of the model for which a tracer warned that it fixes a value. `baked`: the results of testing them.
    `refusal`: the error that the exporter raised.
    """

    exporter: str
    graph: onnx.ModelProto | None = None
    max_error: float | None = None
    problem: str = ""
    warned: Mapping[SourceLine, BakedKind] = field(default_factory=dict)
    baked: tuple[BakedValue, ...] = ()
    refusal: Exception | None = None


def make(job: Job, out: Path, inputs: StageInputs) -> Notes:
    """Writes the graph of the chosen exporter.

    By default this is the first exporter that accepts the model and whose graph is correct; with "auto", the better
    one of both. The note `baked_values` lists the lines of the model whose values the graph fixed. Raises StageFailed
    if the exporter rejects the model, or if no exporter's graph is correct.
    """
    task = _Task(job, inputs.source(), inputs.golden(), out)
    candidates: list[_Candidate] = []
    if job.options.exporter == AUTO:
        references = _references(task)
        candidates = [_check(_export(exporter, task), task, references) for exporter in _EXPORTERS]
        kept, why = _better(candidates, task.sample.noise.fp32.max_error)
        remarks = [f"kept the graph of the {kept.exporter} exporter ({_summary(kept)}): {why}"]
    elif job.options.exporter == DEFAULT:
        kept, remarks = _first_correct(task)
    else:
        kept, remarks = _export(job.options.exporter, task), []
        if kept.refusal is not None:
            raise _rejection(kept, task) from kept.refusal
    assert kept.graph is not None  # a candidate without a graph is never chosen
    if fails := [line for line in kept.baked if line.wrong and line.error is None and line.origin is Origin.SHAPE]:
        raise StageFailed(baked_values.describe(fails[0]), baked_values.REMEDY)  # later stages could not run it either
    _write(kept.graph, out)
    facts: list[Json] = [_facts(candidate, kept) for candidate in candidates]
    notes = {
        "exporter": kept.exporter,
        **_size(kept.graph),
        "baked_values": serde.encode(kept.baked),
        "remarks": remarks,
    }
    return {**notes, "candidates": facts} if facts else notes


def _first_correct(task: _Task) -> tuple[_Candidate, list[str]]:
    """The graph of the first exporter, or of the second if the first rejects the model or fixes a value wrongly."""
    first = _export(_FIRST, task)
    baked = [line.location for line in first.baked if line.wrong or line.doubtful]
    if first.refusal is None and not baked and not first.problem:
        return first, []
    second = _export(_SECOND, task)
    if first.refusal is not None:
        if second.refusal is not None:
            raise _no_exporter([first, second], task) from first.refusal
        return second, [f"used the graph of the {_SECOND} exporter: {first.problem}"]
    if second.refusal is None:
        second = _check(_test_baked_values(second, task, first.warned, traced=True), task, _references(task))
        if not second.problem and not baked_values.wrong_lines(second.baked):
            lines = ", ".join(dict.fromkeys(baked))
            reason = f"the {_FIRST} exporter fixes values at {lines}" if lines else first.problem
            return replace(second, baked=()), [f"used the graph of the {_SECOND} exporter: {reason}"]
    return first, []


def _export(exporter: str, task: _Task) -> _Candidate:
    """The graph of an exporter, with the values that it fixed tested; or the reason for which it rejects the model."""
    module, model, example = _load_model(task)
    feeds = {tensor.name: array.numpy() for tensor, array in zip(model.inputs, example, strict=True)}
    try:
        with (
            _quiet(),
            eager.without_attention_fastpath(),
            source_lines.record_tracer_warnings(source_lines.source_folder(model.factory)) as warned,
        ):
            graph = _EXPORTERS[exporter](module, model, example, task.job.options.opset)
            _clean(graph)
            onnx.checker.check_model(graph, full_check=True)
        if lost := free_sizes.fixed_axis(free_sizes.declared_free_axes(model.inputs), graph.graph):
            raise StageFailed(lost, "see --exporter")
        _write(graph, task.out)
        with load_backend(task.job.options.runner).start(task.out) as session:
            session(**feeds)  # a valid graph need not run: ONNX has types that no runtime supports
    except (MissingBackend, ResourceExhausted):
        raise
    except Exception as error:  # exporters raise errors of any class
        problem = f"the {exporter} exporter rejects the model: {_reason(error)}"
        return _Candidate(exporter, problem=problem, refusal=error)
    if exporter == _SECOND:
        warned = _trace_warnings(module, example, source_lines.source_folder(model.factory))
    return _test_baked_values(_Candidate(exporter, graph, warned=warned), task, warned, traced=exporter == _FIRST)


def _trace_warnings(
    module: nn.Module, example: tuple[torch.Tensor, ...], folder: Path | None
) -> dict[SourceLine, BakedKind]:
    """The lines whose values a tracer fixes; the dynamo exporter itself gives no warnings."""
    with _quiet(), source_lines.record_tracer_warnings(folder) as warned, suppress(Exception):
        torch.jit.trace(module, example, check_trace=False)  # type: ignore[no-untyped-call]  # torch.jit has no types
    return warned


def _test_baked_values(
    candidate: _Candidate, task: _Task, warned: Mapping[SourceLine, BakedKind], *, traced: bool
) -> _Candidate:
    """The candidate with the results of testing the lines in `warned` and all others that read a value of a tensor."""
    assert candidate.graph is not None
    model = task.source.definition
    _write(candidate.graph, task.out)
    module, _, example = _load_model(task)
    folder = source_lines.source_folder(model.factory)
    subject = fixing.Subject(module, model, task.sample.inputs, folder, count=len(example[0]))
    start = partial(load_backend(task.job.options.runner).start, task.out)
    try:
        baked = fixing.examine(
            Stage.EXPORT, subject, start, warned, partial(_references, task), task.tolerance, traced=traced
        )
    except StageFailed as error:
        return replace(candidate, problem=_failure(candidate, error, task))
    wrong = baked_values.wrong_lines(line for line in baked if line.origin is Origin.SHAPE)
    problem = f"the graph of the {candidate.exporter} exporter is wrong: {wrong[0]}" if wrong else ""
    return replace(candidate, baked=baked, problem=problem)


def _check(candidate: _Candidate, task: _Task, references: Sequence[ReferenceCases]) -> _Candidate:
    """The candidate with its error, and with the problem if its answers differ from those of the model."""
    if candidate.graph is None or candidate.problem:
        return candidate
    _write(candidate.graph, task.out)
    try:
        with load_backend(task.job.options.runner).start(task.out) as session:
            at_sizes = noise.NoiseAtSizes(task.source.weights, task.job.options.tolerance, task.sample.noise)
            checks = reference_cases.check(session, references, task.tolerance, at_sizes)
    except StageFailed as error:
        return replace(candidate, problem=_failure(candidate, error, task))
    wrong = [f"against {check.against}, {verdict.describe_failure(check)}" for check in checks if check.broken]
    problem = f"the graph of the {candidate.exporter} exporter is wrong: {wrong[0]}" if wrong else ""
    return replace(candidate, max_error=checks[0].parity.max_error, problem=problem)


def _failure(candidate: _Candidate, error: StageFailed, task: _Task) -> str:
    message = " ".join(str(error).replace(str(task.out), "it").split())
    return f"the graph of the {candidate.exporter} exporter fails: {message}"


def _rejection(candidate: _Candidate, task: _Task) -> StageFailed:
    """The error for an exporter that was requested by name; the remedy is the other one if its graph is correct."""
    (name,) = (name for name in _EXPORTERS if name != candidate.exporter)
    other = _export(name, task)
    if other.refusal is not None:
        return _no_exporter([candidate, other], task)
    other = _check(other, task, _references(task))
    if other.problem:
        return StageFailed(f"{candidate.problem}; {other.problem}", _blocker([candidate], task).remedy)
    return StageFailed(candidate.problem, f"leave --exporter out: the {name} exporter supports the model")


def _no_exporter(rejected: Sequence[_Candidate], task: _Task) -> StageFailed:
    """The error in one line if all exporters reject the model, with the cause if it can be found."""
    blocker = _blocker(rejected, task)
    errors = "; ".join(
        f"{candidate.exporter}: {_reason(candidate.refusal)}" for candidate in rejected if candidate.refusal
    )
    return StageFailed(f"{blocker.what or 'no exporter supports the model'} ({errors})", blocker.remedy)


def _blocker(rejected: Sequence[_Candidate], task: _Task) -> export_blockers.Blocker:
    module, model, example = _load_model(task)
    errors = {candidate.exporter: candidate.refusal for candidate in rejected if candidate.refusal is not None}
    return export_blockers.find(module, example, source_lines.source_folder(model.factory), errors)


def _reason(error: Exception) -> str:
    """The first line of the original error: the outer errors of dynamo name only the step that failed."""
    first: BaseException = error
    while first.__cause__ is not None and not isinstance(first, StageFailed):
        first = first.__cause__
    lines = [line.strip() for line in str(first).splitlines() if line.strip()]
    reason = _FILE.sub("the graph", lines[0]) if lines else type(first).__name__
    return reason if len(reason) <= _MAX_REASON else f"{reason[:_MAX_REASON]} …"


def _load_model(task: _Task) -> tuple[nn.Module, Model, tuple[torch.Tensor, ...]]:
    """A new module that exporters accept, its definition, and example inputs.

    The example has the batch size of the model if that is fixed, else two cases: exporters treat a size of 1 as fixed.
    """
    module, model = eager.load_module(task.source.weights), task.source.definition
    batch = model.inputs[0].shape[0]
    count = batch if isinstance(batch, int) else 2
    cases = [task.sample.inputs[tensor.name] for tensor in model.inputs]
    example = tuple(torch.from_numpy(np.resize(array, (count, *array.shape[1:]))) for array in cases)
    return eager.exportable_module(module, model, example), model, example


def _write(graph: onnx.ModelProto, out: Path) -> None:
    disk.write(out, graph.SerializeToString(deterministic=True))


def _size(graph: onnx.ModelProto) -> dict[str, Json]:
    return {"opset": graph.opset_import[0].version, "nodes": len(graph.graph.node)}


def _references(task: _Task) -> tuple[ReferenceCases, ...]:
    """The golden cases with FP64 answers; other batch sizes and the corners of dynamic sizes with eager answers."""
    sample, model = task.sample, task.source.definition
    with eager.start(task.source.weights) as source:
        more = reference_cases.make(model, task.job.options.sizes, sample.inputs, source, "eager")
    name = f"batch size {len(sample.labels)}"
    return (ReferenceCases("FP64", name, sample.inputs, sample.reference, sample.ties32), *more)


def _better(candidates: Sequence[_Candidate], noise: float) -> tuple[_Candidate, str]:
    """The correct candidate with the smaller error, or of equal errors the one with fewer nodes; and the reason.

    Raises StageFailed if no candidate is correct.
    """
    correct = [candidate for candidate in candidates if not candidate.problem]
    if not correct:
        raise StageFailed("; ".join(candidate.problem for candidate in candidates), FIXED_SIZE_REMEDY)

    def rank(candidate: _Candidate) -> tuple[bool, float, int]:
        return bool(baked_values.wrong_lines(candidate.baked)), _excess(candidate, noise), _operations(candidate)

    best = min(correct, key=rank)
    (other,) = (candidate for candidate in candidates if candidate is not best)
    if problem := other.problem or "; ".join(baked_values.wrong_lines(other.baked)[:1]):
        return best, problem
    if _excess(other, noise) > _excess(best, noise):
        relation = "less accurate"
    else:
        relation = "as accurate and has more operations" if _operations(other) > _operations(best) else "no better"
    return best, f"the graph of the {other.exporter} exporter is {relation} ({_summary(other)})"


def _excess(candidate: _Candidate, noise: float) -> float:
    """The error of a candidate; 0 if it is within the noise."""
    error = candidate.max_error or 0.0
    return error if error > _NOISE * noise else 0.0


def _operations(candidate: _Candidate) -> int:
    nodes = candidate.graph.graph.node if candidate.graph else ()
    return sum(node.op_type not in _FREE for node in nodes)


def _summary(candidate: _Candidate) -> str:
    return f"{_operations(candidate)} operations, error {candidate.max_error:.1e}"


def _facts(candidate: _Candidate, kept: _Candidate) -> Json:
    """One candidate as an entry of the receipt."""
    verdict = "kept" if candidate is kept else "failed" if candidate.problem else "held"
    nodes = len(candidate.graph.graph.node) if candidate.graph else None
    facts = {"exporter": candidate.exporter, "nodes": nodes, "max_error": candidate.max_error}
    return {**facts, "verdict": verdict, "why": candidate.problem}


def _clean(graph: onnx.ModelProto) -> None:
    """Removes the debugging information of exporters: stack traces and source paths of this machine."""
    del graph.metadata_props[:]
    graph.doc_string = ""
    inner = graph.graph
    for part in (inner, *inner.node, *inner.input, *inner.output, *inner.value_info, *inner.initializer):
        del part.metadata_props[:]
        part.doc_string = ""


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppresses the output of exporters on stdout, stderr and in the log."""
    disabled, printed = logging.root.manager.disable, torch._C._jit_onnx_log
    torch._C._jit_onnx_log = lambda *_: None  # C++ would print the whole graph, bypassing redirect_stdout
    logging.disable()
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        torch._C._jit_onnx_log = printed
        logging.disable(disabled)
