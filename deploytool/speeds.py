"""How fast each artifact is beside the eager model, all of them measured in turn in one process."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from deploytool import hops, report
from deploytool.backends import eager
from deploytool.errors import MissingBackend
from deploytool.golden import Arrays
from deploytool.hops import EAGER, Step
from deploytool.measure import latency
from deploytool.report import MEASURED, Speed
from deploytool.spec import Job


def measure(weights: Path, steps: list[Step], inputs: Arrays, job: Job, device: str) -> tuple[tuple[Speed, ...], int]:
    """The speed of every step, and how many rounds there were.

    A round is one batch of the smallest size through each, with answers in host memory on both sides.
    """
    speeds = {step: Speed(step.stage, step.file, step.runner, step.absent or MEASURED) for step in steps}
    calls: dict[str, Callable[[], object]] = {}
    size = job.options.batch.smallest
    with ExitStack() as stack:
        source = stack.enter_context(eager.start(weights, device))
        calls[EAGER] = partial(source, **hops.first(inputs, size))
        for step in steps:
            if step.absent:
                continue
            try:
                session = stack.enter_context(step.open())
            except MissingBackend as error:
                speeds[step] = replace(speeds[step], status=report.unavailable(str(error)))
                continue
            calls[_name(step)] = partial(session, **hops.first(hops.inputs(step, inputs, job), size))
        taken = latency.interleave(calls, job.options.seconds, watch=job.watch)
    for step in steps:
        if _name(step) in taken:
            speeds[step] = _measured(speeds[step], taken[EAGER], taken[_name(step)])
    return tuple(speeds.values()), len(taken[EAGER])


def _name(step: Step) -> str:
    return f"{step.stage}/{step.file}"


def _measured(speed: Speed, slow: latency.Milliseconds, fast: latency.Milliseconds) -> Speed:
    found = latency.ratio(slow, fast)
    median, baseline = float(np.median(fast)), float(np.median(slow))
    return replace(speed, latency_ms=median, eager_ms=baseline, ratio=found.value, low=found.low, high=found.high)
