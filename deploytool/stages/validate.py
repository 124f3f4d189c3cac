"""Validates: parity of every hop against the hop before and against the FP64 source, and speed against eager."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from deploytool import backends, golden, machine, plain, report, verdict
from deploytool.artifact import Artifact, Given, Kind, Notes
from deploytool.backends import Session, eager, rounded, tensorrt
from deploytool.errors import MissingBackend, StageFailed
from deploytool.golden import Arrays, Golden
from deploytool.measure import latency, parity
from deploytool.measure.agreement import accuracy, agreement
from deploytool.measure.corners import Corner, corners
from deploytool.measure.replay import replay
from deploytool.report import MEASURED, Check, Engine, Hop, Reach, Report, Speed, Tolerance, Weights
from deploytool.spec import BATCH, Job, Range

_EAGER, _TRUTH, _OTHER_BATCH = "eager", "FP64", "itself at the largest batch"
_HALF = ("halve", "build")  # the stages whose artifacts compute in FP16
_AT_ONCE = 8  # images, so that all intermediate values of a batch fit into memory
_LIBRARIES = ("deploytool", "torch", "onnx", "onnxsim", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx")


@dataclass(frozen=True)
class _Step:
    """One artifact on one device: how to start it, what it came from, and how far it may stray."""

    stage: str
    file: str
    runner: str
    device: str
    before: str
    open: Callable[[], AbstractContextManager[Session]]
    absent: str | None = None  # the word for an artifact that is known not to run here

    @property
    def tolerance(self) -> Tolerance:
        return parity.FP16 if self.stage in _HALF else parity.FP32


def make(job: Job, out: Path, given: Given) -> Notes:
    """Writes the report; a failed check stands in the report and is no error: the front door decides what it means."""
    sample = golden.read(given.latest(Kind.GOLDEN).path)
    devices = eager.devices()
    engines = _engines(given)
    steps = [step for device in devices for step in _steps(job, given, device)] + _arithmetic(given) + engines
    answers: dict[str, Arrays] = {_EAGER: sample.outputs}
    hops = [_source_hop(given.latest(Kind.GOLDEN), sample)]
    with eager.start(given.latest(Kind.WEIGHTS).path) as source:
        extremes = corners(job.model, job.options.sizes, source)
    hops += [_parity(step, answers, sample, extremes, job) for step in steps]
    timed = _steps(job, given, devices[-1]) + engines
    speeds, rounds = _speed(given.latest(Kind.WEIGHTS), timed, sample, job, devices[-1])
    written = Report(
        schema=report.SCHEMA,
        model=job.model.name,
        device=machine.gpus()[0].name if "cuda" in devices else machine.cpu(),
        batch=job.options.batch.smallest,
        rounds=rounds,
        images=len(sample.labels),
        data=job.options.data.path if job.options.data else None,
        hops=tuple(hops),
        speeds=speeds,
        gate=verdict.gate(job.options.min_speedup, speeds, engine=bool(given.chain(Kind.ENGINE))),
        reach=_reach(given, sample, job),
        engines=_built(given),
        targets=job.options.targets,
        remarks=_remarks(given),
        versions={name: found for name in _LIBRARIES if (found := machine.version(name))},
    )
    report.write(out, written)
    serves = {"free": {**job.options.sizes, BATCH: job.options.batch}, "io": job.options.io}
    return {
        "broken": list(verdict.broken(written)),
        "unmeasured": list(verdict.unmeasured(written)),
        "serves": plain.encode(serves),
    }


def _steps(job: Job, given: Given, device: str) -> list[_Step]:
    """The script and every graph, oldest first; each graph's hop before is the graph before."""
    before = _EAGER
    steps = [_step(artifact, "torchscript", device, before) for artifact in given.chain(Kind.SCRIPT)]
    for artifact in given.chain(Kind.GRAPH):
        steps.append(_step(artifact, job.options.runner, device, before))
        before = artifact.made_by
    return steps


def _arithmetic(given: Given) -> list[_Step]:
    """The FP16 graph with every result rounded, as FP16 hardware does and ONNX Runtime on a CPU does not."""
    before, halved = given.chain(Kind.GRAPH)[-2:]
    return [_step(halved, "rounded", "cpu", before.made_by)] if halved.made_by in _HALF else []


def _step(artifact: Artifact, runner: str, device: str, before: str) -> _Step:
    start = partial(backends.load(runner).start, artifact.path, device)
    return _Step(artifact.made_by, artifact.path.name, runner, device, before, start)


def _engines(given: Given) -> list[_Step]:
    """Every engine file; one that is not for a GPU of this machine is built, not run."""
    before, steps = given.latest(Kind.GRAPH).made_by, []
    for engine in _built(given):
        artifact = given.latest(Kind.ENGINE)
        start = partial(tensorrt.start, artifact.path.with_name(engine.file), "cuda", engine.flavour)
        absent = None if tensorrt.serves(engine.flavour, engine.capabilities) else report.BUILT_NOT_RUN
        steps.append(_Step(artifact.made_by, engine.file, engine.flavour, "cuda", before, start, absent))
    return steps


def _built(given: Given) -> tuple[Engine, ...]:
    """What the build stage says of each engine."""
    notes = [artifact.notes["engines"] for artifact in given.chain(Kind.ENGINE)]
    return tuple(engine for each in notes for engine in plain.decode(tuple[Engine, ...], each))


def _remarks(given: Given) -> tuple[str, ...]:
    """What the stages before want to be known, each line with its stage."""
    said = [(each.made_by, plain.decode(tuple[str, ...], each.notes.get("remarks", []))) for each in given.artifacts]
    return tuple(f"{verb}: {line}" for verb, lines in said for line in lines)


def _reach(given: Given, sample: Golden, job: Job) -> Reach | None:
    """How near the values of the FP16 graph come to the ends of FP16, on the golden inputs."""
    halved = given.latest(Kind.GRAPH)
    if halved.made_by not in _HALF:
        return None
    largest: dict[str, float] = {}
    for start in range(0, len(sample.labels), _AT_ONCE):
        few = {name: array[start : start + _AT_ONCE] for name, array in sample.inputs.items()}
        for node, value in rounded.ranges(halved.path, few).items():
            largest[node] = max(value, largest.get(node, 0.0))
    weights = plain.decode(Weights, halved.notes["weights"])
    return verdict.reach(largest, weights)


def _source_hop(artifact: Artifact, sample: Golden) -> Hop:
    """The eager model itself, in FP32 against FP64."""
    truth = parity.check(sample.outputs, sample.reference, _TRUTH, parity.FP32)
    hop = Hop(artifact.made_by, artifact.path.name, _EAGER, "cpu", MEASURED, (truth,))
    return replace(hop, agreement=agreement(sample.outputs, sample), accuracy=accuracy(sample.outputs, sample))


def _parity(step: _Step, answers: dict[str, Arrays], sample: Golden, extremes: list[Corner], job: Job) -> Hop:
    """Runs the golden inputs at both ends of the batch range, and the corners; the answers stay for the next hop."""
    hop = Hop(step.stage, step.file, step.runner, step.device, step.absent or MEASURED, ())
    if step.absent:
        return hop
    limits = job.options.batch
    try:
        with step.open() as session:
            given = _inputs(step, sample.inputs, job)
            full = replay(session, _first(given, max(limits.largest, len(sample.labels))), limits)
            got: Arrays = {name: array[: len(sample.labels)] for name, array in full.items()}
            single = replay(session, given, Range(limits.smallest, limits.smallest, limits.smallest))
            beyond = [replay(session, _inputs(step, corner.inputs, job), limits) for corner in extremes]
    except MissingBackend as error:
        return replace(hop, status=report.unavailable(str(error)))
    compared: list[tuple[Arrays, Arrays, str]] = [(got, answers[step.before], step.before)]
    compared += [(at, corner.answers, corner.name) for at, corner in zip(beyond, extremes, strict=True)]
    compared += [(single, got, _OTHER_BATCH), (got, sample.reference, _TRUTH)]
    checks = tuple(_check(step, *each) for each in compared)
    answers[step.stage] = got
    return replace(hop, checks=checks, agreement=agreement(got, sample), accuracy=accuracy(got, sample))


def _check(step: _Step, got: Arrays, expected: Arrays, against: str) -> Check:
    try:
        return parity.check(got, expected, against, step.tolerance)
    except ValueError as error:
        raise StageFailed(f"{step.stage}/{step.file} against {against}: {error}", backends.FIXED) from error


def _inputs(step: _Step, inputs: Arrays, job: Job) -> Arrays:
    """The inputs in the types the artifact takes: with `io` fp16, halves are handed over as such."""
    if step.stage in _HALF and job.options.io == "fp16":
        return {
            name: array.astype(np.float16) if array.dtype == np.float32 else array for name, array in inputs.items()
        }
    return inputs


def _speed(
    weights: Artifact, steps: list[_Step], sample: Golden, job: Job, device: str
) -> tuple[tuple[Speed, ...], int]:
    """Every artifact beside eager, in turn, one batch of the smallest size, answers in host memory on both sides."""
    speeds = {step: Speed(step.stage, step.file, step.runner, step.absent or MEASURED) for step in steps}
    calls: dict[str, Callable[[], object]] = {}
    size = job.options.batch.smallest
    with ExitStack() as stack:
        source = stack.enter_context(eager.start(weights.path, device))
        calls[_EAGER] = partial(source, **_first(sample.inputs, size))
        for step in steps:
            if step.absent:
                continue
            try:
                session = stack.enter_context(step.open())
            except MissingBackend as error:
                speeds[step] = replace(speeds[step], status=report.unavailable(str(error)))
                continue
            calls[f"{step.stage}/{step.file}"] = partial(session, **_first(_inputs(step, sample.inputs, job), size))
        taken = latency.interleave(calls, job.options.seconds, watch=job.watch)
    for step in steps:
        mine = taken.get(f"{step.stage}/{step.file}")
        if mine is not None:
            speeds[step] = _measured(speeds[step], taken[_EAGER], mine)
    return tuple(speeds.values()), len(taken[_EAGER])


def _first(inputs: Arrays, size: int) -> Arrays:
    return {name: np.resize(array, (size, *array.shape[1:])) for name, array in inputs.items()}


def _measured(speed: Speed, slow: latency.Milliseconds, fast: latency.Milliseconds) -> Speed:
    found = latency.ratio(slow, fast)
    median, baseline = float(np.median(fast)), float(np.median(slow))
    return replace(speed, latency_ms=median, eager_ms=baseline, ratio=found.value, low=found.low, high=found.high)
