"""How fast each artifact is beside the eager model, all of them measured in turn in one process."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from deploytool.backends import eager, onnxruntime
from deploytool.backends.session import Session
from deploytool.benchmark import comparison, machine_state, ratio
from deploytool.benchmark.interleave import TimingSeries
from deploytool.benchmark.machine_state import Conditions
from deploytool.data.golden import Arrays
from deploytool.errors import MissingBackend
from deploytool.parity import checks
from deploytool.parity.checks import EAGER, PlannedComparison
from deploytool.results.report import Speed
from deploytool.spec import Job, Stage, Status


def measure(
    weights: Path, steps: list[PlannedComparison], inputs: Arrays, job: Job, device: str
) -> tuple[tuple[Speed, ...], int]:
    """The speed of every step, and how many rounds there were; nothing where there is no time for any.

    A round is one batch of the smallest size through each, with answers in host memory on both sides.
    """
    if not job.options.seconds:
        return (), 0
    speeds = {step: Speed(Stage(step.stage), step.file, step.runner, step.status, reason=step.reason) for step in steps}
    calls: dict[str, Callable[[], object]] = {}
    size, threads = job.options.batch.smallest, eager.thread_count()
    with ExitStack() as stack:
        source = stack.enter_context(eager.start(weights, device))
        calls[EAGER] = partial(source, **checks.first_cases(inputs, size))
        for step in steps:
            if step.absent:
                continue
            try:
                session = stack.enter_context(start_session(step, threads))
            except MissingBackend as error:
                speeds[step] = replace(speeds[step], status=Status.UNAVAILABLE, reason=str(error))
                continue
            calls[artifact_name(step)] = partial(
                session, **checks.first_cases(checks.cast_inputs(step, inputs, job), size)
            )
        taken, found = machine_state.time_watched(calls, job.options.seconds, threads, watch=job.watch)
    for step in steps:
        if artifact_name(step) in taken:
            speeds[step] = _measured(
                speeds[step], taken[EAGER], taken[artifact_name(step)], found, on_cpu=device == "cpu"
            )
    return tuple(speeds.values()), len(taken[EAGER].wall_ms)


def start_session(step: PlannedComparison, threads: int) -> AbstractContextManager[Session]:
    """The step, a graph on as many threads as torch has: with more, it would win by them alone."""
    if step.graph and step.runner == "onnxruntime":
        return onnxruntime.start(step.graph, step.device, threads, optimise=step.optimise)
    return step.open()


def artifact_name(step: PlannedComparison) -> str:
    """The artifact's name, as the report has it."""
    return f"{step.stage}/{step.file}"


def _measured(speed: Speed, slow: TimingSeries, fast: TimingSeries, seen: Conditions, *, on_cpu: bool) -> Speed:
    found = ratio.ratio(slow.wall_ms, fast.wall_ms)
    here = f"{speed.stage}/{speed.file}"
    said, reason = comparison.verdict(
        found, (EAGER, slow), (here, fast), threads=seen.threads, uneven=seen.uneven, on_cpu=on_cpu
    )
    return replace(
        speed,
        latency_ms=float(np.median(fast.wall_ms)),
        eager_ms=float(np.median(slow.wall_ms)),
        ratio=found.value,
        low=found.low,
        high=found.high,
        verdict=said,
        reason=reason,
    )
