"""Writes a given ONNX graph in the form that later stages read, and checks it and the file as given against FP64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from deploytool.backends import eager, given_graph
from deploytool.backends.session import Session, load_backend
from deploytool.data.golden import Golden
from deploytool.errors import StageFailed
from deploytool.exporters import floor
from deploytool.host import exception_text, workers
from deploytool.host.process import run_limited
from deploytool.loading.graph import adapter, source
from deploytool.loading.source_model import SourceModel
from deploytool.loading.stage_inputs import StageInputs
from deploytool.parity import metrics, noise, reference_cases
from deploytool.parity.reference_cases import ReferenceCases
from deploytool.results import verdict
from deploytool.results.artifact import Notes
from deploytool.rewrites.graph import storage, sum_scales, weights, zero_points
from deploytool.spec import GivenGraph, Job, Model, Options

_WORKER = "deploytool.loading.graph.convert_worker"
_SECONDS = 300.0


@dataclass(frozen=True)
class _Task:
    """The graph's source model, its golden cases, and the file to write."""

    job: Job
    source: SourceModel
    sample: Golden
    out: Path

    @property
    def model(self) -> Model:
        """The settled definition."""
        return self.source.definition

    @property
    def given(self) -> GivenGraph:
        """What the file is."""
        assert self.model.given is not None
        return self.model.given


def make(job: Job, out: Path, inputs: StageInputs) -> Notes:
    """Writes the graph with the inputs and outputs of its model, without documentation, at the requested opset.

    If the version converter fails or its result is wrong, the opset of the file stays, with a remark. Raises
    StageFailed if the file as given, or the graph, deviates from the answers in FP64, if a runtime of `floor` cannot
    read the graph, and if the user stated an opset that is not reached.
    """
    task = _Task(job, inputs.source(), inputs.golden(), out)
    references = _references(task)
    with given_graph.start(task.source.weights) as session:
        as_given = _check(session, references, task, "the file as given", half=task.given.half)
    graph = _graph(task.model)
    before, remarks = _opset(graph), list[str]()
    storage.save(graph, out)
    if before != job.options.opset and weights.is_large(graph):
        remarks = _staying(before, job.options, "the converter of onnx cannot hold a graph beyond 2 GB")
    elif before != job.options.opset:
        graph, remarks = _converted(graph, task, references)
    graph = floor.fit(graph, job.options.floor)
    _check_validity(graph, task)
    storage.save(graph, out)
    with load_backend(job.options.runner).start(out) as session:
        error = _check(session, references, task, "the graph")
    return {
        "exporter": "none: the file is a graph",
        "opset": _opset(graph),
        "nodes": len(graph.graph.node),
        "max_error": error,
        "max_error_as_given": as_given,
        "floor": dict(job.options.floor),
        "remarks": remarks,
    }


def _check_validity(graph: onnx.ModelProto, task: _Task) -> None:
    """Raises StageFailed for a graph that onnx's checker refuses, though ONNX Runtime runs the file."""
    try:
        weights.check(graph, full=False)
    except onnx.checker.ValidationError as error:
        problem = f"the graph of {task.model.factory} is not valid: {exception_text.one_line(error)}"
        raise StageFailed(problem, "check the file with onnx.checker.check_model, and export it again") from error


def _graph(model: Model) -> onnx.ModelProto:
    """The graph of the file with the inputs and outputs of the model, as ONNX Runtime computes it rightly."""
    graph = source.graph(model)
    adapter.clean(graph)
    adapter.set_outputs(graph, model.outputs)
    return sum_scales.dequantised(zero_points.written(graph))


def _staying(opset: int, options: Options, reason: str) -> list[str]:
    """The remark on a graph that keeps its opset; raises StageFailed if the user stated another one."""
    if options.opset_stated:
        problem = f"--opset {options.opset} is not reached, and the file has opset {opset}: {reason}"
        raise StageFailed(problem, f"leave --opset out, which keeps opset {opset}, or export the model at that opset")
    return [f"the opset stays {opset}: {reason}"]


def _opset(graph: onnx.ModelProto) -> int:
    return next(int(entry.version) for entry in graph.opset_import if entry.domain in ("", "ai.onnx"))


def _references(task: _Task) -> tuple[ReferenceCases, ...]:
    """The golden cases with FP64 answers; other batch sizes and the corners of dynamic sizes with torch's answers."""
    sample = task.sample
    name = f"batch size {len(sample.labels)}"
    golden_cases = ReferenceCases("FP64", name, sample.inputs, sample.reference, sample.ties32)
    with eager.start(task.source.weights) as session:
        return (
            golden_cases,
            *reference_cases.make(task.model, task.job.options.sizes, golden_cases, session, "torch"),
        )


def _check(
    session: Session, references: Sequence[ReferenceCases], task: _Task, what: str, *, half: bool = False
) -> float:
    """The error against FP64; raises StageFailed if a check fails. `half`: it computes in FP16."""
    requested = task.job.options.tolerance
    at_sizes = noise.NoiseAtSizes(task.source.weights, requested, task.sample.noise)
    allowed = metrics.tolerances(task.sample.noise, requested)
    checks = reference_cases.check(
        session, references, allowed.fp16 if half else allowed.fp32, None if half else at_sizes
    )
    for check in checks:
        if check.broken:
            problem = f"ONNX Runtime on {what} deviates: against {check.against}, {verdict.describe_failure(check)}"
            raise StageFailed(problem, "report it with the file, or set --tolerance fp32=ERROR if that is acceptable")
    return checks[0].parity.max_error


def _converted(
    graph: onnx.ModelProto, task: _Task, references: Sequence[ReferenceCases]
) -> tuple[onnx.ModelProto, list[str]]:
    """The graph at the requested opset; the graph itself, with a remark, if it cannot be converted."""
    before, after, result = _opset(graph), task.job.options.opset, task.out.with_name("converted.onnx")
    try:
        run_limited(
            workers.command(_WORKER),
            what="the version converter of onnx",
            seconds=_SECONDS,
            gibibytes=workers.MEMORY_GIB,
            max_file_bytes=workers.MAX_FILE_BYTES,
            task=[str(task.out), str(result), after],
            output=result,
        )
        converted = onnx.load(result)
        onnx.checker.check_model(converted)
        with load_backend(task.job.options.runner).start(result) as session:
            _check(session, references, task, "the converted graph")
    except (StageFailed, onnx.checker.ValidationError) as error:
        why = " ".join(str(error).split())
        return graph, _staying(before, task.job.options, f"it cannot be converted to {after}: {why}")
    finally:
        result.unlink(missing_ok=True)
    adapter.clean(converted)
    return converted, [f"converted from opset {before} to {after}, with the same answers"]
