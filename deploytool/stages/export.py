"""Translates the PyTorch model to ONNX: one self-contained file, stable names, free batch, always the same bytes."""

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
_NOISE = 4.0  # errors up to so many times the noise are equal: another order of sums moves them as far
_FREE = ("Constant", "Identity")  # nodes that cost nothing where the graph runs
_FILE = re.compile(r"\S*/graph\.onnx")  # where it was written for a moment
_LONGEST = 160  # characters of a foreign reason


@dataclass(frozen=True)
class _Task:
    """What is to be translated, and the file that takes the graph."""

    job: Job
    source: SourceModel
    sample: Golden
    out: Path

    @property
    def tolerance(self) -> Tolerance:
        """The worst that passes in FP32."""
        return metrics.tolerances(self.sample.noise, self.job.options.tolerance).fp32


@dataclass(frozen=True)
class _Candidate:
    """What one exporter made of the model: its error against FP64, and why it cannot be kept, if it cannot.

    `warned` are the lines that it said it fixed, `fixed` what trying them showed, and `refusal` what it raised.
    """

    exporter: str
    graph: onnx.ModelProto | None = None
    max_error: float | None = None
    why: str = ""
    warned: Mapping[SourceLine, BakedKind] = field(default_factory=dict)
    fixed: tuple[BakedValue, ...] = ()
    refusal: Exception | None = None


def make(job: Job, out: Path, inputs: StageInputs) -> Notes:
    """Writes the graph of the exporter that was chosen; by default of the first that takes the model and holds.

    With "auto" it is the better proved of both. `fixed` are the lines of the model that the kept graph knows only as
    they went at export. Raises StageFailed if the exporter refuses the model, or if no exporter's graph holds.
    """
    task = _Task(job, inputs.source(), inputs.golden(), out)
    tried: list[_Candidate] = []
    if job.options.exporter == AUTO:
        asked = _questions(task)
        tried = [_proved(_candidate(exporter, task), task, asked) for exporter in _EXPORTERS]
        kept, why = _better(tried, task.sample.noise.fp32.max_error)
        remarks = [f"kept the graph of the {kept.exporter} exporter ({_told(kept)}): {why}"]
    elif job.options.exporter == DEFAULT:
        kept, remarks = _first_that_holds(task)
    else:
        kept, remarks = _candidate(job.options.exporter, task), []
        if kept.refusal is not None:
            raise _refused(kept, task) from kept.refusal
    assert kept.graph is not None  # what is kept has one
    if fails := [line for line in kept.fixed if line.wrong and line.error is None and line.origin is Origin.SHAPE]:
        raise StageFailed(baked_values.describe(fails[0]), baked_values.REMEDY)  # no later stage could run it either
    _write(kept.graph, out)
    facts: list[Json] = [_facts(candidate, kept) for candidate in tried]
    notes = {
        "exporter": kept.exporter,
        **_size(kept.graph),
        "baked_values": serde.encode(kept.fixed),
        "remarks": remarks,
    }
    return {**notes, "candidates": facts} if facts else notes


def _first_that_holds(task: _Task) -> tuple[_Candidate, list[str]]:
    """The usual exporter's graph, or the other's where that refuses the model, or fixes what the other leaves open."""
    usual = _candidate(_FIRST, task)
    left_open = [line.location for line in usual.fixed if line.wrong or line.doubtful]
    if usual.refusal is None and not left_open and not usual.why:
        return usual, []
    other = _candidate(_SECOND, task)
    if usual.refusal is not None:
        if other.refusal is not None:
            raise _hopeless([usual, other], task) from usual.refusal
        return other, [f"the graph is the {_SECOND} exporter's: {usual.why}"]
    if other.refusal is None:
        other = _proved(_tried(other, task, usual.warned, traced=True), task, _questions(task))
        if not other.why and not baked_values.wrong_lines(other.fixed):
            what = f"the {_FIRST} exporter fixes {', '.join(dict.fromkeys(left_open))}" if left_open else usual.why
            return replace(other, fixed=()), [f"the graph is the {_SECOND} exporter's: {what}"]
    return usual, []


def _candidate(exporter: str, task: _Task) -> _Candidate:
    """What an exporter makes of the model, the lines it fixed tried; or why it does not take it."""
    module, model, example = _taken(task)
    given = {tensor.name: array.numpy() for tensor, array in zip(model.inputs, example, strict=True)}
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
            session(**given)  # what an exporter writes need not run: ONNX has types that no runtime computes in
    except (MissingBackend, ResourceExhausted):
        raise
    except Exception as error:  # whatever an exporter raises, the user's model was refused
        why = f"the {exporter} exporter refuses the model: {_reason(error)}"
        return _Candidate(exporter, why=why, refusal=error)
    if exporter == _SECOND:
        warned = _listened(module, example, source_lines.source_folder(model.factory))
    return _tried(_Candidate(exporter, graph, warned=warned), task, warned, traced=exporter == _FIRST)


def _listened(module: nn.Module, example: tuple[torch.Tensor, ...], home: Path | None) -> dict[SourceLine, BakedKind]:
    """The lines that a tracer would fix: an exporter that captures the model says nothing of those that it fixes."""
    with (
        _quiet(),
        source_lines.record_tracer_warnings(home) as warned,
        suppress(Exception),
    ):  # of a model that cannot be traced it is silent
        torch.jit.trace(module, example, check_trace=False)  # type: ignore[no-untyped-call]  # torch.jit has no types
    return warned


def _tried(candidate: _Candidate, task: _Task, warned: Mapping[SourceLine, BakedKind], *, traced: bool) -> _Candidate:
    """The candidate with what trying the lines in `warned`, and all that asks for values, shows of it."""
    assert candidate.graph is not None
    model = task.source.definition
    _write(candidate.graph, task.out)
    module, _, example = _taken(task)
    home = source_lines.source_folder(model.factory)
    subject = fixing.Subject(module, model, task.sample.inputs, home, count=len(example[0]))
    start = partial(load_backend(task.job.options.runner).start, task.out)
    try:
        found = fixing.examine(
            Stage.EXPORT, subject, start, warned, partial(_questions, task), task.tolerance, traced=traced
        )
    except StageFailed as error:
        return replace(candidate, why=_does_not_hold(candidate, error, task))
    wrong = baked_values.wrong_lines(line for line in found if line.origin is Origin.SHAPE)
    why = f"the graph of the {candidate.exporter} exporter is wrong: {wrong[0]}" if wrong else ""
    return replace(candidate, fixed=found, why=why)


def _proved(candidate: _Candidate, task: _Task, asked: Sequence[ReferenceCases]) -> _Candidate:
    """The candidate with its error, and with why it cannot be kept if it answers otherwise than the model."""
    if candidate.graph is None or candidate.why:
        return candidate
    _write(candidate.graph, task.out)
    try:
        with load_backend(task.job.options.runner).start(task.out) as session:
            at = noise.NoiseAtSizes(task.source.weights, task.job.options.tolerance, task.sample.noise)
            checks = reference_cases.check(session, asked, task.tolerance, at)
    except StageFailed as error:
        return replace(candidate, why=_does_not_hold(candidate, error, task))
    wrong = [f"against {check.against}, {verdict.describe_failure(check)}" for check in checks if check.broken]
    why = f"the graph of the {candidate.exporter} exporter is wrong: {wrong[0]}" if wrong else ""
    return replace(candidate, max_error=checks[0].parity.max_error, why=why)


def _does_not_hold(candidate: _Candidate, error: StageFailed, task: _Task) -> str:
    said = " ".join(str(error).replace(str(task.out), "it").split())
    return f"the graph of the {candidate.exporter} exporter does not hold: {said}"


def _refused(candidate: _Candidate, task: _Task) -> StageFailed:
    """The failure of an exporter that was asked for by name; its remedy is the other one only where that holds."""
    (name,) = (name for name in _EXPORTERS if name != candidate.exporter)
    other = _candidate(name, task)
    if other.refusal is not None:
        return _hopeless([candidate, other], task)
    other = _proved(other, task, _questions(task))
    if other.why:
        return StageFailed(f"{candidate.why}; {other.why}", _obstacle([candidate], task).remedy)
    return StageFailed(candidate.why, f"leave --exporter out: the {name} exporter takes it")


def _hopeless(refused: Sequence[_Candidate], task: _Task) -> StageFailed:
    """The failure of all exporters in one line, with what stands in the way as far as that shows."""
    found = _obstacle(refused, task)
    each = "; ".join(f"{one.exporter}: {_reason(one.refusal)}" for one in refused if one.refusal)
    return StageFailed(f"{found.what or 'no exporter takes the model'} ({each})", found.remedy)


def _obstacle(refused: Sequence[_Candidate], task: _Task) -> export_blockers.Blocker:
    module, model, example = _taken(task)
    said = {one.exporter: one.refusal for one in refused if one.refusal is not None}
    return export_blockers.find(module, example, source_lines.source_folder(model.factory), said)


def _reason(error: Exception) -> str:
    """The first line of what was raised first: dynamo's own error only says in which of its steps that was."""
    first: BaseException = error
    while first.__cause__ is not None and not isinstance(first, StageFailed):
        first = first.__cause__
    lines = [line.strip() for line in str(first).splitlines() if line.strip()]
    said = _FILE.sub("the graph", lines[0]) if lines else type(first).__name__
    return said if len(said) <= _LONGEST else f"{said[:_LONGEST]} …"


def _taken(task: _Task) -> tuple[nn.Module, Model, tuple[torch.Tensor, ...]]:
    """The model as exporters take it, made anew, and an example of its inputs.

    The example is of two cases, for a batch of one would be taken for a fixed size; where the batch is fixed, of it.
    """
    module, model = eager.load_module(task.source.weights), task.source.definition
    batch = model.inputs[0].shape[0]
    count = batch if isinstance(batch, int) else 2
    cases = [task.sample.inputs[tensor.name] for tensor in model.inputs]
    example = tuple(torch.from_numpy(np.resize(each, (count, *each.shape[1:]))) for each in cases)
    return eager.exportable_module(module, model, example), model, example


def _write(graph: onnx.ModelProto, out: Path) -> None:
    disk.write(out, graph.SerializeToString(deterministic=True))


def _size(graph: onnx.ModelProto) -> dict[str, Json]:
    return {"opset": graph.opset_import[0].version, "nodes": len(graph.graph.node)}


def _questions(task: _Task) -> tuple[ReferenceCases, ...]:
    """All golden cases with the FP64 answers; other batches and the corners of free sizes with the eager model's."""
    sample, model = task.sample, task.source.definition
    with eager.start(task.source.weights) as source:
        more = reference_cases.make(model, task.job.options.sizes, sample.inputs, source, "eager")
    every = f"{len(sample.labels)} at once"
    return (ReferenceCases("FP64", every, sample.inputs, sample.reference, sample.ties32), *more)


def _better(tried: Sequence[_Candidate], noise: float) -> tuple[_Candidate, str]:
    """Of those that hold the more exact one, of equally exact ones the one with fewer operations, else the first.

    Raises StageFailed if none holds.
    """
    hold = [candidate for candidate in tried if not candidate.why]
    if not hold:
        raise StageFailed("; ".join(candidate.why for candidate in tried), FIXED_SIZE_REMEDY)
    best = min(
        hold, key=lambda each: (bool(baked_values.wrong_lines(each.fixed)), _excess(each, noise), _operations(each))
    )
    (other,) = (candidate for candidate in tried if candidate is not best)
    if why := other.why or "; ".join(baked_values.wrong_lines(other.fixed)[:1]):
        return best, why
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
    """Keeps both exporters' chatter off stdout, stderr and the log; what they fix is heard by `places.watched`."""
    disabled, printed = logging.root.manager.disable, torch._C._jit_onnx_log
    torch._C._jit_onnx_log = lambda *said: None  # C++ would print the whole graph, past redirect_stdout
    logging.disable()
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        torch._C._jit_onnx_log = printed
        logging.disable(disabled)
