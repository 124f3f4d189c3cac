"""The comparisons of a run: how each artifact is started, what it is held against, and how far it may stray."""

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
from deploytool.loading.stage_inputs import StageInputs
from deploytool.parity import edge_checks, intermediates, metrics
from deploytool.parity.agreement import accuracy, agreement
from deploytool.parity.edge_checks import Own
from deploytool.parity.intermediates import Probes
from deploytool.parity.metrics import Tolerances
from deploytool.parity.replay import replay
from deploytool.parity.shape_corners import At, Corner
from deploytool.results import verdict
from deploytool.results.artifact import Artifact, Kind, for_engine
from deploytool.results.report import Check, Comparison, Engine, Tolerance
from deploytool.spec import Job, Precision, Range, Stage, Status

EAGER = "eager"
_TRUTH, _OTHER_BATCH, _SAME_WEIGHTS = "FP64", "itself at the largest batch", "{} with its weights in FP16"
_HALF = tuple(stage for stage in Stage if stage.precision is Precision.FP16)
_WIDENED, _ROUNDED = "fp32_compute", "fp16_emulation"  # runners of the FP16 graph: as converted, and in FP16 arithmetic


@dataclass(frozen=True)
class PlannedComparison:
    """One artifact on one device: how to start it, and what it came from.

    `graph` is its file if it is one. `exact` says that it is run as the graph it came from would be, so that only FP32
    noise may lie between them. `status` is `MEASURED` unless it is known not to run here, for that `reason`, and
    `left_out` says that this is because there is no such file. `optimise` says whether ONNX Runtime may.
    `stage` is a form of the eager model where there is no artifact.
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

    @property
    def again(self) -> bool:
        """Whether it is an artifact that was run as it is before, and is now run in another way."""
        return self.runner in (_WIDENED, _ROUNDED)

    @property
    def absent(self) -> bool:
        """Whether it is known not to run here."""
        return self.status is not Status.MEASURED

    @property
    def half(self) -> bool:
        """Whether the artifact computes in FP16."""
        return self.stage in _HALF


def graph_comparisons(device: str, job: Job, given: StageInputs) -> list[PlannedComparison]:
    """The script and every graph, oldest first; each graph's comparison before is the graph before."""
    before = EAGER
    steps = [_step(artifact, "torchscript", device, before) for artifact in given.chain(Kind.TORCHSCRIPT)]
    for artifact in given.chain(Kind.GRAPH):
        steps.append(_step(artifact, job.options.runner, device, before))
        before = artifact.made_by
    return steps


def fp16_comparisons(given: StageInputs) -> list[PlannedComparison]:
    """The FP16 graph twice more: as it was converted, and in FP16 arithmetic.

    As converted: every operator in FP32, against the graph before with its weights in FP16. In FP16 arithmetic: every
    result rounded, as FP16 hardware does and ONNX Runtime on a CPU does not.
    """
    before, halved = given.chain(Kind.GRAPH)[-2:]
    if halved.made_by.precision is Precision.FP32:
        return []
    converted = partial(fp16_emulation.start_without_rounding, halved.path)
    same = _SAME_WEIGHTS.format(before.made_by)
    return [
        PlannedComparison(halved.made_by, halved.path.name, _WIDENED, "cpu", same, converted, exact=True),
        _step(halved, _ROUNDED, "cpu", before.made_by),
    ]


def reference_answers(job: Job, given: StageInputs, sample: Golden) -> dict[str, Arrays]:
    """The answers that no artifact gives and that comparisons are held against all the same."""
    answers = {EAGER: sample.outputs}
    before, halved = given.chain(Kind.GRAPH)[-2:]
    if halved.made_by.precision is Precision.FP16:
        with fp16_emulation.start_with_rounded_weights(for_engine(before.path), halved.path) as session:
            answers[_SAME_WEIGHTS.format(before.made_by)] = replay(session, _halves(sample.inputs, job))
    return answers


def engine_comparisons(given: StageInputs) -> list[PlannedComparison]:
    """Every engine file; one that is not for a GPU of this machine is built, not run."""
    before, steps = given.latest(Kind.GRAPH).made_by, []
    for engine in build_notes(given):
        artifact = given.latest(Kind.ENGINE)
        start = partial(tensorrt.start, artifact.path.with_name(engine.file), "cuda", engine.flavour)
        here = tensorrt.is_for_this_gpu(engine.flavour, engine.capabilities)
        status = Status.MEASURED if here else Status.BUILT_NOT_RUN
        steps.append(
            PlannedComparison(artifact.made_by, engine.file, engine.flavour, "cuda", before, start, status=status)
        )
    return steps


def build_notes(given: StageInputs) -> tuple[Engine, ...]:
    """What the build stage says of each engine."""
    notes = [artifact.notes["engines"] for artifact in given.chain(Kind.ENGINE)]
    return tuple(engine for each in notes for engine in serde.decode(tuple[Engine, ...], each))


def _step(artifact: Artifact, runner: str, device: str, before: str) -> PlannedComparison:
    start = partial(load_backend(runner).start, artifact.path, device)
    if not artifact.optimised and runner == "onnxruntime":
        start = partial(start, optimise=False)
    graph = artifact.path if artifact.kind is Kind.GRAPH else None
    step = PlannedComparison(
        artifact.made_by, artifact.path.name, runner, device, before, start, graph, optimise=artifact.optimised
    )
    if not artifact.left_out:
        return step
    return replace(step, status=Status.UNAVAILABLE, reason=artifact.reason, left_out=True)


def source_comparison(artifact: Artifact, sample: Golden, allowed: Tolerances) -> Comparison:
    """The eager model itself, in FP32 against FP64."""
    truth = metrics.check_source(metrics.check(sample.outputs, sample.reference, _TRUTH, allowed.fp32, sample.ties32))
    noise = sample.noise.fp32.max_error
    comparison = Comparison(artifact.made_by, artifact.path.name, EAGER, "cpu", Status.MEASURED, (truth,), noise)
    return replace(comparison, agreement=agreement(sample.outputs, sample), accuracy=accuracy(sample.outputs, sample))


def judge(
    steps: list[PlannedComparison],
    answers: dict[str, Arrays],
    sample: Golden,
    extremes: list[Corner],
    kept: Probes,
    job: Job,
    own: Own | None = None,
    at: At | None = None,
) -> Iterator[Comparison]:
    """Runs the golden inputs at both ends of the batch range, the corners and the edges, through each step in turn.

    `answers` holds those of the artifacts before, by stage. What is run again in another way has no batches to prove.
    `own` tells what the model's noise at an edge lets pass, and `at` what it does at a corner, where golden noise does
    not: else nothing more does.
    """
    allowed = metrics.tolerances(sample.noise, job.options.tolerance)
    for step in steps:
        noise = sample.noise.fp16 if step.half else sample.noise.fp32
        comparison = Comparison(
            Stage(step.stage), step.file, step.runner, step.device, step.status, (), noise.max_error
        )
        comparison = replace(comparison, left_out=step.left_out, reason=step.reason)
        try:
            if step.absent:
                yield comparison
                continue
            found, at_edges = _judged(comparison, step, answers, sample, extremes, kept, job, allowed, at)
            yield _with_edges(found, step, at_edges, sample, allowed, own or (lambda edge: allowed))
        except MissingBackend as error:
            yield replace(comparison, status=Status.UNAVAILABLE, reason=str(error))


def _judged(
    comparison: Comparison,
    step: PlannedComparison,
    answers: dict[str, Arrays],
    sample: Golden,
    extremes: list[Corner],
    kept: Probes,
    job: Job,
    allowed: Tolerances,
    at: At | None,
) -> tuple[Comparison, list[Arrays]]:
    """The comparison without its edges, and the answers at those."""
    limits = job.options.batch
    with step.open() as session:
        given = cast_inputs(step, sample.inputs, job)
        wanted = given if step.again else first_cases(given, max(limits.largest, len(sample.labels)))
        full = replay(session, wanted, limits)
        got: Arrays = {name: array[: len(sample.labels)] for name, array in full.items()}
        single = {} if step.again else replay(session, given, Range(limits.smallest, limits.smallest, limits.smallest))
        at_corners = [replay(session, cast_inputs(step, corner.inputs, job), limits) for corner in extremes]
        edges = () if step.exact else sample.edges
        at_edges = [replay(session, cast_inputs(step, edge.inputs, job), limits) for edge in edges]
    far = allowed.fp16 if step.half else allowed.fp32
    near = allowed.fp32 if step.exact else far
    ties = sample.ties(half=step.half)
    checks = [_check(step, got, answers[step.before], step.before, near, ties)]
    checks += [_at_corner(step, *each, far, at) for each in zip(at_corners, extremes, strict=True)]
    checks += [_check(step, single, got, _OTHER_BATCH, near, ties)] if single else []
    truth = _check(step, got, sample.reference, _TRUTH, far, ties)
    checks += _on_the_way(step, got, sample, kept, far, job)
    answers[step.stage] = got
    agreed, right = agreement(got, sample), accuracy(got, sample)
    return replace(comparison, checks=(*checks, truth), agreement=agreed, accuracy=right), at_edges


def _at_corner(step: PlannedComparison, got: Arrays, corner: Corner, far: Tolerance, at: At | None) -> Check:
    """At a corner; where it breaks what golden noise allows, the noise at that corner is asked.

    Sums over more places drift further, and the golden images may all be small.
    """
    first = _check(step, got, corner.answers, corner.name, far)
    if not first.broken or at is None:
        return first
    own = at(corner.name, corner.inputs)
    second = _check(step, got, corner.answers, corner.name, own.fp16 if step.half else own.fp32)
    return min(first, second, key=lambda each: len(each.broken))


def _with_edges(
    comparison: Comparison, step: PlannedComparison, got: list[Arrays], sample: Golden, allowed: Tolerances, own: Own
) -> Comparison:
    """The comparison with a check for each edge case, before the last; FP16 is not held to unrealistic inputs."""
    checks, remarks = list[Check](), list[str]()
    for edge, answers in zip(sample.edges, got, strict=False):  # none are got where none are asked
        try:
            found = edge_checks.check(answers, edge, sample, allowed, own, half=step.half)
        except ValueError as error:
            raise StageFailed(f"{step.stage}/{step.file} at {edge.name}: {error}", FIXED_SIZE_REMEDY) from error
        if found is None:
            continue
        if found.broken and step.half and not edge.natural:
            remarks.append(f"FP16 does not hold at {edge.name}: {verdict.reasons(found)}")
        else:
            checks.append(found)
    *others, truth = comparison.checks
    return replace(comparison, checks=(*others, *checks, truth), remarks=tuple(remarks))


def _on_the_way(
    step: PlannedComparison, got: Arrays, sample: Golden, kept: Probes, tolerance: Tolerance, job: Job
) -> tuple[Check, ...]:
    """The probes that the artifact has: an engine gives them among its answers, of a graph a copy is made to."""
    if step.graph and kept.values:
        start = partial(load_backend(step.runner).start, device=step.device)
        few = cast_inputs(step, intermediates.first_cases(sample.inputs), job)
        got = intermediates.answers(step.graph, kept.values, start, few, job.options.batch)
    return intermediates.checks(kept, got, tolerance)


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
        raise StageFailed(f"{step.stage}/{step.file} against {against}: {error}", FIXED_SIZE_REMEDY) from error


def cast_inputs(step: PlannedComparison, arrays: Arrays, job: Job) -> Arrays:
    """The inputs in the types the artifact takes."""
    return _halves(arrays, job) if step.half else arrays


def _halves(arrays: Arrays, job: Job) -> Arrays:
    """The inputs of an FP16 artifact: with `io` fp16, halves are handed over as such."""
    if job.options.io is Precision.FP32:
        return arrays
    return {name: array.astype(np.float16) if array.dtype == np.float32 else array for name, array in arrays.items()}


def first_cases(arrays: Arrays, size: int) -> Arrays:
    """The first `size` cases, begun again where there are fewer."""
    return {name: np.resize(array, (size, *array.shape[1:])) for name, array in arrays.items()}
