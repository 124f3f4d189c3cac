"""The comparisons of a run: how each artifact is started, what it is compared with, and how far it may deviate."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from deploytool import serde
from deploytool.backends import fp16_emulation, tensorrt
from deploytool.backends.session import FIXED_SIZE_REMEDY, Session, load_backend
from deploytool.data.golden import Arrays, Golden
from deploytool.errors import MissingBackend, StageFailed
from deploytool.host import fp16_rounding, machine
from deploytool.loading.stage_inputs import StageInputs
from deploytool.parity import edge_checks, intermediates, metrics
from deploytool.parity.agreement import accuracy, agreement
from deploytool.parity.edge_checks import EdgeTolerance
from deploytool.parity.intermediates import Probes
from deploytool.parity.metrics import Tolerances
from deploytool.parity.replay import replay
from deploytool.parity.shape_corners import Corner, ToleranceAt
from deploytool.results import verdict
from deploytool.results.artifact import Artifact, Kind, engine_graph, openvino_graph
from deploytool.results.report import Check, Comparison, Engine, Tolerance
from deploytool.spec import Job, Precision, Range, Stage, Status

EAGER = "eager"
_FP64, _LARGEST_BATCH, _ROUNDED_WEIGHTS = "FP64", "itself at the largest batch", "{} with its weights in {}"
_FP32_COMPUTE = "fp32_compute"  # a graph in 16 bits, with every operator in FP32
_EMULATIONS = {Precision.FP16: "fp16_emulation", Precision.BF16: "bf16_emulation"}  # with every result rounded
_INT8_EMULATION, _FP8_EMULATION = "int8_emulation", "fp8_emulation"  # graphs in 8 bits, as quantised


@dataclass(frozen=True)
class PlannedComparison:
    """One artifact on one device: how to start it, and the stage it was made from.

    `before` is the stage, or the source of answers, that it is compared with. `graph` is its file if that is an ONNX
    graph. `exact` says that it differs from `before` by FP32 noise only. `status` is `MEASURED` unless the artifact is
    known not to run here, for `reason`; `left_out` says that there is no such file. `optimise` says whether ONNX
    Runtime may optimise the graph. `precision` is that of its arithmetic. `stage` names a form of the eager model where
    there is no artifact.
    """

    stage: str
    file: str
    runner: str
    device: str
    before: str
    open: Callable[[], AbstractContextManager[Session]]
    graph: Path | None = None
    exact: bool = False
    status: Status = Status.MEASURED
    reason: str = ""
    left_out: bool = False
    optimise: bool = True
    precision: Precision = Precision.FP32

    @property
    def emulated(self) -> bool:
        """Whether an emulation on the CPU runs the artifact, which no batch size changes."""
        return self.runner in (_FP32_COMPUTE, _INT8_EMULATION, _FP8_EMULATION, *_EMULATIONS.values())

    @property
    def absent(self) -> bool:
        """Whether it is known not to run here."""
        return self.status is not Status.MEASURED

    @property
    def half(self) -> bool:
        """Whether the artifact computes in 16 bits."""
        return self.precision in _EMULATIONS


def graph_comparisons(device: str, job: Job, given: StageInputs) -> list[PlannedComparison]:
    """The TorchScript file and every graph, in the order they were made; each graph is compared with the one before."""
    before = EAGER
    steps = [_step(artifact, "torchscript", device, before) for artifact in given.chain(Kind.TORCHSCRIPT)]
    for artifact in given.chain(Kind.GRAPH):
        steps.append(_step(artifact, job.options.runner, device, before))
        before = artifact.made_by
    return steps


def fp16_comparisons(given: StageInputs) -> list[PlannedComparison]:
    """Two further runs of the FP16 graph on the CPU; none if the last graph is FP32.

    In FP32 arithmetic, against the graph before with its weights rounded to FP16: this checks the conversion. In FP16
    arithmetic, with every result rounded as FP16 hardware does and ONNX Runtime on a CPU does not.
    """
    before, last = given.chain(Kind.GRAPH)[-2:]
    if last.made_by.precision is Precision.FP32:
        return []
    return _in_both(last, before.made_by)


def bf16_comparisons(given: StageInputs) -> list[PlannedComparison]:
    """Two runs of the BF16 graph on the CPU, as those of the FP16 graph; no runtime has its operators there.

    The one in BF16 arithmetic comes first, as the row of the file.
    """
    before = given.fp32_graph().made_by
    return [step for artifact in given.chain(Kind.BF16_GRAPH) for step in reversed(_in_both(artifact, before))]


def _in_both(artifact: Artifact, before: Stage) -> list[PlannedComparison]:
    """A graph in 16 bits as converted, in FP32 arithmetic, and in its own arithmetic."""
    precision, file = artifact.made_by.precision, artifact.path.name
    start = partial(fp16_emulation.start_without_rounding, artifact.path)
    reference = _ROUNDED_WEIGHTS.format(before, precision.upper())
    converted = PlannedComparison(artifact.made_by, file, _FP32_COMPUTE, "cpu", reference, start, exact=True)
    emulate = partial(fp16_emulation.start, artifact.path)
    graph = artifact.path if artifact.kind is Kind.GRAPH else None
    emulated = PlannedComparison(
        artifact.made_by, file, _EMULATIONS[precision], "cpu", before, emulate, graph, optimise=artifact.optimised
    )
    return [replace(step, precision=precision) for step in (converted, emulated)]


def reference_answers(job: Job, given: StageInputs, sample: Golden) -> dict[str, Arrays]:
    """The answers that comparisons refer to and that no artifact gives, by the name in `before`."""
    answers = {EAGER: sample.outputs}
    before = given.fp32_graph()
    for artifact in (given.latest(Kind.GRAPH), *given.chain(Kind.BF16_GRAPH)):
        precision = artifact.made_by.precision
        if precision in _EMULATIONS:
            with fp16_emulation.start_with_rounded_weights(engine_graph(before.path), artifact.path) as session:
                inputs = _fp16_inputs(sample.inputs, job) if precision is Precision.FP16 else sample.inputs
                answers[_ROUNDED_WEIGHTS.format(before.made_by, precision.upper())] = replay(session, inputs)
    return answers


def engine_comparisons(given: StageInputs) -> list[PlannedComparison]:
    """Every engine file but those in 8 bits; one that was not built for a GPU of this machine is `BUILT_NOT_RUN`."""
    before = {
        graph.made_by.precision: graph.made_by for graph in (*given.chain(Kind.GRAPH), *given.chain(Kind.BF16_GRAPH))
    }
    return [
        _engine_step(engine, given, before[engine.precision])
        for engine in build_notes(given)
        if engine.precision in before
    ]


def int8_comparisons(given: StageInputs) -> list[PlannedComparison]:
    """The INT8 graphs on the CPU, as quantised and in the kernels of each runtime that is installed, and the engines.

    Where there are engines, the graph that they are built from follows, as quantised. No tolerance applies to any of
    them: they are judged by a metric.
    """
    before, steps = given.fp32_graph().made_by, []
    engines = [engine for engine in build_notes(given) if engine.precision is Precision.INT8]
    for artifact in given.chain(Kind.INT8_GRAPH):
        runs = [(artifact.path, _INT8_EMULATION), (artifact.path, "onnxruntime")]
        if machine.version("openvino"):
            own = openvino_graph(artifact.path)
            runs += [(own, _INT8_EMULATION)] if own else []
            runs.append((own or artifact.path, "openvino"))
        if engines:
            runs.append((engine_graph(artifact.path), _INT8_EMULATION))
        for path, runner in runs:
            start = partial(load_backend(runner).start, path, "cpu")
            steps.append(PlannedComparison(artifact.made_by, path.name, runner, "cpu", before, start, path))
    return [*steps, *(_engine_step(engine, given, before) for engine in engines)]


def fp8_comparisons(given: StageInputs) -> list[PlannedComparison]:
    """The FP8 graph on the CPU, as quantised, and its engines: judged by a metric, as those of INT8 are."""
    before, steps = given.fp32_graph().made_by, []
    for artifact in given.chain(Kind.FP8_GRAPH):
        start = partial(load_backend(_FP8_EMULATION).start, artifact.path, "cpu")
        steps.append(
            PlannedComparison(artifact.made_by, artifact.path.name, _FP8_EMULATION, "cpu", before, start, artifact.path)
        )
    engines = [engine for engine in build_notes(given) if engine.precision is Precision.FP8]
    return [*steps, *(_engine_step(engine, given, before) for engine in engines)]


def openvino_step(given: StageInputs) -> PlannedComparison:
    """The FP32 graph that is fastest in OpenVINO, there."""
    artifact = given.fp32_graph()
    path = openvino_graph(artifact.path) or artifact.path
    start = partial(load_backend("openvino").start, path, "cpu")
    return PlannedComparison(artifact.made_by, path.name, "openvino", "cpu", artifact.made_by, start, path)


def _engine_step(engine: Engine, given: StageInputs, before: Stage) -> PlannedComparison:
    artifact = given.latest(Kind.ENGINE)
    weights = given.latest(Kind.GRAPH).path if engine.stripped else None
    start = partial(tensorrt.start, artifact.path.with_name(engine.file), "cuda", engine.flavour, weights)
    runs_here = tensorrt.is_for_this_gpu(engine.flavour, engine.capabilities)
    status = Status.MEASURED if runs_here else Status.BUILT_NOT_RUN
    step = PlannedComparison(artifact.made_by, engine.file, engine.flavour, "cuda", before, start, status=status)
    return replace(step, precision=engine.precision)


def build_notes(given: StageInputs) -> tuple[Engine, ...]:
    """The build stage's record of each engine."""
    notes = [artifact.notes["engines"] for artifact in given.chain(Kind.ENGINE)]
    return tuple(engine for engines in notes for engine in serde.decode(tuple[Engine, ...], engines))


def _step(artifact: Artifact, runner: str, device: str, before: str) -> PlannedComparison:
    start = partial(load_backend(runner).start, artifact.path, device)
    if not artifact.optimised and runner == "onnxruntime":
        start = partial(start, optimise=False)
    graph = artifact.path if artifact.kind is Kind.GRAPH else None
    step = PlannedComparison(
        artifact.made_by, artifact.path.name, runner, device, before, start, graph, optimise=artifact.optimised
    )
    step = replace(step, precision=artifact.made_by.precision)
    if not artifact.left_out:
        return step
    return replace(step, status=Status.UNAVAILABLE, reason=artifact.reason, left_out=True)


def source_comparison(artifact: Artifact, sample: Golden, allowed: Tolerances) -> Comparison:
    """The eager model in FP32, compared with itself in FP64."""
    parity = metrics.check(sample.outputs, sample.reference, _FP64, allowed.fp32, sample.ties32)
    check = metrics.check_source(parity)
    noise = sample.noise.fp32.max_error
    comparison = Comparison(artifact.made_by, artifact.path.name, EAGER, "cpu", Status.MEASURED, (check,), noise)
    return replace(comparison, agreement=agreement(sample.outputs, sample), accuracy=accuracy(sample.outputs, sample))


def judge(
    steps: list[PlannedComparison],
    answers: dict[str, Arrays],
    sample: Golden,
    extremes: list[Corner],
    probes: Probes,
    job: Job,
    edge_tolerance: EdgeTolerance | None = None,
    tolerance_at: ToleranceAt | None = None,
) -> Iterator[Comparison]:
    """Runs each step on the golden inputs at both ends of the batch range, on the corners and on the edge cases.

    `answers` holds the answers of earlier stages by name, and receives those of each step. `edge_tolerance` and
    `tolerance_at` give the tolerances from noise measured at an edge case and at a corner, for checks that fail by
    golden noise; without them golden noise alone decides.
    """
    allowed = metrics.tolerances(sample.noise, job.options.tolerance)
    for step in steps:
        noise = sample.noise.floor(step.precision)
        planned = Comparison(Stage(step.stage), step.file, step.runner, step.device, step.status, (), noise.max_error)
        planned = replace(planned, left_out=step.left_out, reason=step.reason)
        try:
            if step.absent:
                yield planned
                continue
            comparison, edge_answers = _compare(
                planned, step, answers, sample, extremes, probes, job, allowed, tolerance_at
            )
            yield _with_edges(comparison, step, edge_answers, sample, allowed, edge_tolerance or (lambda _: allowed))
        except MissingBackend as error:
            yield replace(planned, status=Status.UNAVAILABLE, reason=str(error))


def _compare(
    planned: Comparison,
    step: PlannedComparison,
    answers: dict[str, Arrays],
    sample: Golden,
    extremes: list[Corner],
    probes: Probes,
    job: Job,
    allowed: Tolerances,
    tolerance_at: ToleranceAt | None,
) -> tuple[Comparison, list[Arrays]]:
    """The comparison without its edge cases, and the answers to those."""
    limits = job.options.batch
    with step.open() as session:
        given = cast_inputs(step, sample.inputs, job)
        wanted = given if step.emulated else first_cases(given, max(limits.largest, len(sample.labels)))
        full = replay(session, wanted, limits)
        got: Arrays = {name: array[: len(sample.labels)] for name, array in full.items()}
        single = (
            {} if step.emulated else replay(session, given, Range(limits.smallest, limits.smallest, limits.smallest))
        )
        at_corners = [replay(session, cast_inputs(step, corner.inputs, job), limits) for corner in extremes]
        edges = () if step.exact else sample.edges
        at_edges = [replay(session, cast_inputs(step, edge.inputs, job), limits) for edge in edges]
    by_precision = allowed.of(step.precision)
    tolerance = allowed.fp32 if step.exact else by_precision
    ties = sample.ties(step.precision)
    checks = [_check(step, got, answers[step.before], step.before, tolerance, ties)]
    checks += [
        _check_corner(step, at_corner, corner, by_precision, tolerance_at)
        for at_corner, corner in zip(at_corners, extremes, strict=True)
    ]
    checks += [_check(step, single, got, _LARGEST_BATCH, tolerance, ties)] if single else []
    against_fp64 = _check(step, got, sample.reference, _FP64, by_precision, ties)
    checks += _check_probes(step, got, sample, probes, by_precision, job)
    if not step.exact:
        answers[step.stage] = got
    agreed, correct = agreement(got, sample), accuracy(got, sample)
    return replace(planned, checks=(*checks, against_fp64), agreement=agreed, accuracy=correct), at_edges


def _check_corner(
    step: PlannedComparison, got: Arrays, corner: Corner, tolerance: Tolerance, tolerance_at: ToleranceAt | None
) -> Check:
    """The check at a corner; if it fails by golden noise, the noise measured at that corner decides.

    Longer sums accumulate larger rounding errors, and the golden inputs may all be small.
    """

    def allowed() -> Iterator[Tolerance]:
        yield tolerance
        if tolerance_at is not None:
            yield tolerance_at(corner.name, corner.inputs).of(step.precision)

    try:
        return metrics.check_by_any(got, corner.answers, corner.name, allowed())
    except ValueError as error:
        raise _other_shapes(step, corner.name, error) from error


def _with_edges(
    comparison: Comparison,
    step: PlannedComparison,
    got: list[Arrays],
    sample: Golden,
    allowed: Tolerances,
    edge_tolerance: EdgeTolerance,
) -> Comparison:
    """The comparison with a check for each edge case, before the check against FP64.

    A failure of FP16 or BF16 at an edge case that is not natural is a remark.
    """
    checks, remarks = list[Check](), list[str]()
    for edge, answers in zip(sample.edges, got, strict=False):  # an exact step has no answers to edge cases
        try:
            check = edge_checks.check(answers, edge, sample, allowed, edge_tolerance, step.precision)
        except ValueError as error:
            raise StageFailed(f"{step.stage}/{step.file} at {edge.name}: {error}", FIXED_SIZE_REMEDY) from error
        if check is None:
            continue
        if check.broken and step.half and not edge.natural:
            what = f"{step.precision.upper()} fails at the edge case {edge.name}"
            remarks.append(f"{what}: {verdict.describe_failure(check)}")
        else:
            checks.append(check)
    *others, against_fp64 = comparison.checks
    return replace(comparison, checks=(*others, *checks, against_fp64), remarks=tuple(remarks))


def _check_probes(
    step: PlannedComparison, got: Arrays, sample: Golden, probes: Probes, tolerance: Tolerance, job: Job
) -> tuple[Check, ...]:
    """The checks of intermediate tensors: an engine has them among its outputs, a graph is run as a copy with them."""
    if step.graph and probes.values:
        start = partial(load_backend(step.runner).start, device=step.device)
        cases = cast_inputs(step, intermediates.first_cases(sample.inputs), job)
        got = intermediates.answers(step.graph, probes.values, start, cases, job.options.batch)
    return intermediates.checks(probes, got, tolerance)


def _check(
    step: PlannedComparison,
    got: Arrays,
    expected: Arrays,
    against: str,
    tolerance: Tolerance,
    ties: Arrays | None = None,
) -> Check:
    try:
        return metrics.check(got, expected, against, tolerance, ties or {})
    except ValueError as error:
        raise _other_shapes(step, against, error) from error


def _other_shapes(step: PlannedComparison, against: str, error: ValueError) -> StageFailed:
    return StageFailed(f"{step.stage}/{step.file} against {against}: {error}", FIXED_SIZE_REMEDY)


def cast_inputs(step: PlannedComparison, arrays: Arrays, job: Job) -> Arrays:
    """The inputs in the types that the artifact takes."""
    return _fp16_inputs(arrays, job) if step.precision is Precision.FP16 else arrays


def _fp16_inputs(arrays: Arrays, job: Job) -> Arrays:
    """The inputs of an FP16 artifact: FP16 where the option `io` says so, else as they are."""
    if job.options.io is Precision.FP32:
        return arrays
    return fp16_rounding.nearest_inputs(arrays)


def first_cases(arrays: Arrays, size: int) -> Arrays:
    """The first `size` cases, repeated from the first where there are fewer."""
    return {name: np.resize(array, (size, *array.shape[1:])) for name, array in arrays.items()}
