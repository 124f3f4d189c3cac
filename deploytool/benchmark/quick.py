"""Times each artifact of a run against the original, all in turn in one process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from deploytool.backends import eager, given_graph, onnxruntime, openvino
from deploytool.backends.session import Session
from deploytool.benchmark import comparison, machine_state, ratio
from deploytool.benchmark.interleave import TimingSeries
from deploytool.benchmark.machine_state import Conditions
from deploytool.data.golden import Arrays
from deploytool.errors import MissingBackend
from deploytool.host import side_files
from deploytool.parity import checks
from deploytool.parity.checks import PlannedComparison
from deploytool.results import runners
from deploytool.results.report import Baseline, Gain, Speed
from deploytool.spec import Job, Model, Precision, Stage, Status


def measure(
    weights: Path, steps: list[PlannedComparison], inputs: Arrays, job: Job, device: str
) -> tuple[tuple[Speed, ...], int]:
    """The speed of every step, and the number of rounds; empty and 0 if the options give no time for it.

    A round runs one batch of the smallest size in each session; outputs are in host memory for all of them. Graphs with
    side files are timed one by one, each in turn with the original.
    """
    if not job.options.seconds:
        return (), 0
    if len(steps) > 1 and any(step.graph and side_files.side_file(step.graph).exists() for step in steps):
        each = [measure(weights, [step], inputs, job, device) for step in steps]  # together they would not fit
        return tuple(speed for speeds, _ in each for speed in speeds), min(rounds for _, rounds in each)
    speeds = {step: Speed(Stage(step.stage), step.file, step.runner, step.status, reason=step.reason) for step in steps}
    calls: dict[str, Callable[[], object]] = {}
    size, threads = job.options.batch.smallest, eager.thread_count()
    with ExitStack() as stack:
        source = stack.enter_context(_start_original(weights, job.model, device, threads))
        calls[baseline(job.model)] = partial(source, **checks.first_cases(inputs, size))
        for step in steps:
            if step.absent:
                continue
            try:
                session = stack.enter_context(start_session(step, threads))
            except MissingBackend as error:
                speeds[step] = replace(speeds[step], status=Status.UNAVAILABLE, reason=str(error))
                continue
            batch = checks.first_cases(checks.cast_inputs(step, inputs, job), size)
            calls[artifact_name(step)] = partial(session, **batch)
        timings, conditions = machine_state.time_watched(calls, job.options.seconds, threads, watch=job.watch)
    original = (baseline(job.model), timings[baseline(job.model)])
    for step in steps:
        if series := timings.get(artifact_name(step)):
            speeds[step] = _with_timings(speeds[step], original, series, conditions, on_cpu=device == "cpu")
            gain = _gain(timings.get(_single(steps, "onnxruntime")), series) if step.stage == Stage.INT8 else None
            speeds[step] = replace(speeds[step], gain=gain, own_gain=_gain(timings.get(_instead(steps, step)), series))
    return tuple(speeds.values()), len(original[1].wall_ms)


def _gain(slow: TimingSeries | None, fast: TimingSeries) -> Gain | None:
    """How many times as fast one series is as the other; None if that was not timed."""
    if slow is None:
        return None
    gain = ratio.ratio(slow.wall_ms, fast.wall_ms)
    return Gain(gain.value, gain.low, gain.high)


def _instead(steps: Sequence[PlannedComparison], step: PlannedComparison) -> str:
    """The name of what the runtime of an INT8 graph, or of an engine not in FP16, would run otherwise; else empty."""
    if step.stage == Stage.INT8:
        return _single(steps, step.runner)
    names = {each.file: artifact_name(each) for each in steps if each.stage == Stage.BUILD}
    return names.get(step.file.removeprefix(f"{step.precision}_"), "") if step.precision is not Precision.FP16 else ""


def _single(steps: Sequence[PlannedComparison], runner: str) -> str:
    """The name of the last FP32 graph in a runner; empty if there is none."""
    graphs = [step for step in steps if step.graph and Stage(step.stage).precision is Precision.FP32]
    names = [artifact_name(step) for step in graphs if step.runner == runner]
    return names[-1] if names else ""


def baseline(model: Model) -> Baseline:
    """What the speed of a model's artifacts is compared with."""
    return Baseline.EAGER if model.given is None else Baseline.GIVEN


def _start_original(weights: Path, model: Model, device: str, threads: int) -> AbstractContextManager[Session]:
    """Starts the baseline; a given file gets the thread count of torch, as the graphs do."""
    if baseline(model) is Baseline.GIVEN:
        return given_graph.start(weights, device, threads)
    return eager.start(weights, device)


def start_session(step: PlannedComparison, threads: int) -> AbstractContextManager[Session]:
    """Starts a step; a graph gets the thread count of torch, because more threads alone would make it faster."""
    if step.graph and step.runner == "onnxruntime":
        return onnxruntime.start(step.graph, step.device, threads, optimise=step.optimise)
    if step.graph and step.runner == "openvino":
        return openvino.start(step.graph, step.device, threads)
    return step.open()


def artifact_name(step: PlannedComparison) -> str:
    """The artifact's name in the report."""
    return runners.artifact(step.stage, step.file, step.runner)


def _with_timings(
    speed: Speed, original: tuple[str, TimingSeries], fast: TimingSeries, conditions: Conditions, *, on_cpu: bool
) -> Speed:
    slow = original[1]
    speedup = ratio.ratio(slow.wall_ms, fast.wall_ms)
    name = runners.artifact(speed.stage, speed.file, speed.runner)
    verdict, reason = comparison.verdict(
        speedup, original, (name, fast), threads=conditions.threads, uneven=conditions.uneven, on_cpu=on_cpu
    )
    return replace(
        speed,
        latency_ms=float(np.median(fast.wall_ms)),
        baseline_ms=float(np.median(slow.wall_ms)),
        ratio=speedup.value,
        low=speedup.low,
        high=speedup.high,
        verdict=verdict,
        reason=reason,
    )
