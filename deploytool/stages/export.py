"""Exports the PyTorch model to ONNX: a deterministic file with stable names, and beyond 2 GB a side file."""

from __future__ import annotations

import io
import logging
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from deploytool import serde
from deploytool.backends import eager
from deploytool.backends.session import Session, load_backend
from deploytool.data.golden import Arrays, Golden
from deploytool.errors import MissingBackend, ResourceExhausted, StageFailed
from deploytool.exporters import dynamo, floor, torchscript
from deploytool.host import memory
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
from deploytool.rewrites.graph import free_sizes, storage, weights
from deploytool.serde import Json
from deploytool.spec import AUTO, TORCHSCRIPT_OPSET, Job, Model, Stage

_EXPORTERS = {"torchscript": torchscript.export, "dynamo": dynamo.export}
_FIRST, _SECOND = _EXPORTERS
_EXAMPLES = 2  # cases of the example that a model is exported with, unless its batch size is fixed
_FILE = re.compile(r"\S*/graph\.onnx")  # the temporary file of an exporter
_MAX_REASON = 160  # characters of an error message of an exporter


@dataclass(frozen=True)
class _Task:
    """The model to export, its golden cases, and the file of the graph."""

    job: Job
    source: SourceModel
    sample: Golden
    out: Path

    def file(self, exporter: str) -> Path:
        """The file of an exporter's graph until the stage ends, in a folder of its own."""
        return self.out.parent / f".{exporter}" / self.out.name

    @property
    def tolerance(self) -> Tolerance:
        """The FP32 tolerance."""
        return metrics.tolerances(self.sample.noise, self.job.options.tolerance).fp32

    @cached_property
    def golden_cases(self) -> ReferenceCases:
        """The golden cases with their FP64 answers."""
        name = f"batch size {len(self.sample.labels)}"
        return ReferenceCases("FP64", name, self.sample.inputs, self.sample.reference, self.sample.ties32)

    @cached_property
    def eager_cases(self) -> tuple[ReferenceCases, ...]:
        """Other batch sizes and the corners of dynamic sizes, with eager answers."""
        with eager.start(self.source.weights) as source:
            sizes = self.job.options.sizes
            return reference_cases.make(self.source.definition, sizes, self.golden_cases, source, "eager")


@dataclass(frozen=True)
class _Candidate:
    """The result of one exporter.

    `problem`: why the graph cannot be used; empty if it can. `warned`: lines of the model for which a tracer warned
    that it fixes a value. `baked`: the results of testing them. `refusal`: the error that the exporter raised.
    """

    exporter: str
    graph: onnx.ModelProto | None = None
    problem: str = ""
    warned: Mapping[SourceLine, BakedKind] = field(default_factory=dict)
    baked: tuple[BakedValue, ...] = ()
    refusal: Exception | None = None

    @property
    def doubtful_lines(self) -> str:
        """The lines whose values the graph fixed wrongly, or perhaps wrongly."""
        return ", ".join(dict.fromkeys(line.location for line in self.baked if line.wrong or line.doubtful))

    @property
    def holds(self) -> bool:
        """Whether the graph can be used, and fixes no value wrongly."""
        return not self.problem and not baked_values.wrong_lines(self.baked)


def make(job: Job, out: Path, inputs: StageInputs) -> Notes:
    """Writes the graph of the chosen exporter: with `auto` the first one whose graph holds.

    The note `baked_values` lists the lines of the model whose values the graph fixed. Raises StageFailed if the
    exporter rejects the model, or with `auto` if both do.
    """
    task = _Task(job, inputs.source(), inputs.golden(), out)
    if job.options.exporter == AUTO:
        kept, remarks = _first_that_holds(task)
    else:
        kept, remarks = _export(job.options.exporter, task, checked=False), ()
        if kept.refusal is not None:
            raise _rejection(kept, task) from kept.refusal
    assert kept.graph is not None  # a candidate without a graph is never chosen
    if fails := [line for line in kept.baked if line.wrong and line.error is None and line.origin is Origin.SHAPE]:
        raise StageFailed(baked_values.describe(fails[0]), baked_values.REMEDY)  # later stages could not run it either
    for file in storage.files_of(task.file(kept.exporter)):
        file.replace(out.with_name(file.name))
    for exporter in _EXPORTERS:
        shutil.rmtree(task.file(exporter).parent, ignore_errors=True)
    return {
        "exporter": kept.exporter,
        **_size(kept.graph),
        "baked_values": serde.encode(kept.baked),
        "floor": dict(job.options.floor),
        "remarks": [*remarks],
    }


def _first_that_holds(task: _Task) -> tuple[_Candidate, tuple[str, ...]]:
    """The graph of the first exporter, or of the second if the first rejects the model or its graph does not hold.

    If neither graph holds, it is the first one, whose errors the report will list.
    """
    first = _export(_FIRST, task, checked=True)
    if not first.problem and not first.doubtful_lines:
        return first, ()
    second = _export(_SECOND, task, checked=True)
    if first.refusal is not None:
        if second.refusal is not None:
            raise _no_exporter([first, second], task) from first.refusal
        return second, (f"used the graph of the {_SECOND} exporter: {first.problem}",)
    lines = first.doubtful_lines
    if not second.problem:
        second = _test_baked_values(second, task, first.warned, traced=True)
    if second.holds:
        reason = f"the {_FIRST} exporter fixes values at {lines}" if lines else first.problem
        return replace(second, baked=()), (f"used the graph of the {_SECOND} exporter: {reason}",)
    return first, () if lines else (f"no exporter's graph holds: {first.problem}; {second.problem}",)


def _export(exporter: str, task: _Task, *, checked: bool) -> _Candidate:
    """The graph of an exporter, with the values that it fixed tested; or the reason for which it rejects the model.

    `checked`: whether its answers are compared with those of the model.
    """
    module, model, example = _load_model(task)
    feeds = {tensor.name: array.numpy() for tensor, array in zip(model.inputs, example, strict=True)}
    folder, file = source_lines.source_folder(model.factory), task.file(exporter)
    try:
        with (
            _quiet(),
            eager.without_attention_fastpath(),
            source_lines.record_tracer_warnings(folder) as warned,
        ):
            graph = _EXPORTERS[exporter](module, model, example, task.job.options.opset, _raw_folder(file))
            _clean(graph)
            graph = floor.fit(graph, task.job.options.floor)
            weights.check(graph)
        if lost := free_sizes.fixed_axis(free_sizes.declared_free_axes(model.inputs), graph.graph):
            raise StageFailed(lost, "see --exporter")
        graph = _saved(graph, file)
        if exporter == _SECOND:
            warned = _trace_warnings(module, example, folder)
        del module  # a session holds the weights too, and the tests below load another module
        memory.release_unused()
        with load_backend(task.job.options.runner).start(file) as session:
            session(**feeds)  # a valid graph need not run: ONNX has types that no runtime supports
            problem = _difference(exporter, session, task) if checked else ""
    except (MissingBackend, ResourceExhausted):
        raise
    except Exception as error:  # exporters raise errors of any class
        problem = f"the {exporter} exporter rejects the model: {_reason(error)}"
        return _Candidate(exporter, problem=problem, refusal=error)
    candidate = _Candidate(exporter, graph, problem, warned)
    return _test_baked_values(candidate, task, warned, traced=exporter == _FIRST)


def _difference(exporter: str, session: Session, task: _Task) -> str:
    """How the graph's answers differ from those of the model; empty if they do not.

    Compared are the golden cases, and other batch sizes: with the golden answers, which cost no run of the model, and
    with eager answers where these differ, because a model may answer differently in another batch.
    """
    at_sizes = noise.NoiseAtSizes(task.source.weights, task.job.options.tolerance, task.sample.noise)

    def broken(*cases: ReferenceCases) -> list[str]:
        checks = reference_cases.check(session, cases, task.tolerance, at_sizes)
        return [f"against {check.against}, {verdict.describe_failure(check)}" for check in checks if check.broken]

    try:
        wrong = broken(task.golden_cases)
        if not wrong and (task.job.options.sizes or broken(*_other_batches(task))):
            wrong = broken(*task.eager_cases)
    except StageFailed as error:
        return _failure(exporter, error, task)
    return f"the graph of the {exporter} exporter is wrong: {wrong[0]}" if wrong else ""


def _other_batches(task: _Task) -> tuple[ReferenceCases, ...]:
    """Golden cases one at a time and three at a time, unless all of them are that many or the batch size is fixed."""
    cases = task.golden_cases
    if isinstance(task.source.definition.inputs[0].shape[0], int):
        return ()

    def first(arrays: Arrays, count: int) -> Arrays:
        return {name: np.resize(array, (count, *array.shape[1:])) for name, array in arrays.items()}

    counts = (1,) if len(task.sample.labels) > _EXAMPLES else (1, _EXAMPLES + 1)
    return tuple(
        ReferenceCases(
            f"FP64, batch size {count}",
            f"batch size {count}",
            first(cases.inputs, count),
            first(cases.answers, count),
            _ties_of(cases.ties, count),
        )
        for count in counts
    )


def _ties_of(ties: Arrays, count: int) -> Arrays:
    """The ties (2, cases, ...) of the first `count` cases, repeated from the first where there are fewer."""
    return {
        name: np.stack([np.resize(end, (count, *end.shape[1:])) for end in (least, most)])
        for name, (least, most) in ties.items()
    }


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
    module, _, example = _load_model(task)
    folder = source_lines.source_folder(model.factory)
    subject = fixing.Subject(module, model, task.sample.inputs, folder, count=len(example[0]))
    start = partial(load_backend(task.job.options.runner).start, task.file(candidate.exporter))
    try:
        baked = fixing.examine(
            *(Stage.EXPORT, subject, start, warned),
            lambda: (task.golden_cases, *task.eager_cases),
            task.tolerance,
            traced=traced,
        )
    except StageFailed as error:
        return replace(candidate, problem=_failure(candidate.exporter, error, task))
    wrong = baked_values.wrong_lines(line for line in baked if line.origin is Origin.SHAPE)
    problem = f"the graph of the {candidate.exporter} exporter is wrong: {wrong[0]}" if wrong else candidate.problem
    return replace(candidate, baked=baked, problem=problem)


def _failure(exporter: str, error: StageFailed, task: _Task) -> str:
    message = " ".join(str(error).replace(str(task.file(exporter)), "it").split())
    return f"the graph of the {exporter} exporter fails: {message}"


def _rejection(candidate: _Candidate, task: _Task) -> StageFailed:
    """The error for an exporter that was requested by name; the remedy is the other one if its graph is correct."""
    (name,) = (name for name in _EXPORTERS if name != candidate.exporter)
    other = _export(name, task, checked=True)
    if other.refusal is not None:
        return _no_exporter([candidate, other], task)
    if other.problem:
        return StageFailed(f"{candidate.problem}; {other.problem}", _blocker([candidate], task).remedy)
    return StageFailed(candidate.problem, f"leave --exporter out: the {name} exporter supports the model")


def _no_exporter(rejected: Sequence[_Candidate], task: _Task) -> StageFailed:
    """The error in one line if all exporters reject the model, with the cause if it can be found."""
    blocker = _blocker(rejected, task)
    errors = "; ".join(
        f"{candidate.exporter}: {_reason(candidate.refusal)}" for candidate in rejected if candidate.refusal
    )
    newer = not blocker.what and task.job.options.opset > TORCHSCRIPT_OPSET
    remedy = f"try --opset {TORCHSCRIPT_OPSET}, which both exporters write" if newer else blocker.remedy
    return StageFailed(f"{blocker.what or 'no exporter supports the model'} ({errors})", remedy)


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
    count = batch if isinstance(batch, int) else _EXAMPLES
    cases = [task.sample.inputs[tensor.name] for tensor in model.inputs]
    example = tuple(torch.from_numpy(np.resize(array, (count, *array.shape[1:]))) for array in cases)
    return eager.exportable_module(module, model, example), model, example


def _raw_folder(file: Path) -> Path:
    """The folder in which an exporter may leave the side files of the graph that is to be written to `file`."""
    folder = file.with_name("raw")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _saved(graph: onnx.ModelProto, file: Path) -> onnx.ModelProto:
    """The graph, written to its file; a large one is loaded from there, with its weights in the side file."""
    storage.save(graph, file)
    shutil.rmtree(_raw_folder(file))
    return storage.load(file) if weights.is_large(graph) else graph


def _size(graph: onnx.ModelProto) -> dict[str, Json]:
    return {"opset": graph.opset_import[0].version, "nodes": len(graph.graph.node)}


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
