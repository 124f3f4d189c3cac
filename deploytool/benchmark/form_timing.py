"""Times the forms of a graph in turn, at the smallest batch size and the fastest of them at the typical one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np

from deploytool.backends import openvino
from deploytool.backends.session import Session
from deploytool.benchmark import choice, comparison, machine_state
from deploytool.benchmark import ratio as benchmark_ratio
from deploytool.benchmark.interleave import Milliseconds
from deploytool.benchmark.ratio import Ratio
from deploytool.data.golden import Arrays
from deploytool.host import machine
from deploytool.rewrites.recipes import ORIGINAL
from deploytool.spec import Range

MAX_WEIGHTS = 25_000_000  # numbers, of a graph that is timed in OpenVINO too: all forms are in memory at once

_SECONDS = 0.5  # of timing for each batch size
_CONTENDERS = 3  # forms that are timed at the larger batch size, not counting the original
_MAX_SECONDS = 8.0  # if timing at the larger batch size would take longer, it is skipped

Trials = dict[str, dict[int, Ratio]]  # form: batch size: speedup over the original


def measure(
    sessions: Mapping[str, Session], inputs: Arrays, batches: Range, *, single: bool = False
) -> tuple[Trials, str | None]:
    """The speedups of all forms at the smallest batch size, and of the fastest at the typical one.

    Also returns the reason if the machine was too busy for a result. With `single`, sessions of one thread are timed by
    processor time, which is valid on a busy machine too.
    """
    clock, threads = ("cpu_ms", 1) if single else ("wall_ms", machine.thread_limit() or os.cpu_count() or 1)
    trials: Trials = {name: {} for name in sessions}
    contenders = dict(sessions)
    for batch in dict.fromkeys((batches.smallest, batches.typical)):
        if len(contenders) < 2:
            break
        batched = {name: np.resize(array, (batch, *array.shape[1:])) for name, array in inputs.items()}
        calls = {name: partial(session, **batched) for name, session in contenders.items()}
        series, conditions = machine_state.time_watched(calls, _SECONDS, threads)
        busy = conditions.uneven or comparison.most_delayed(series, threads)
        if busy and not single:
            return trials, busy
        times: dict[str, Milliseconds] = {name: getattr(timing, clock) for name, timing in series.items()}
        for name, time in times.items():
            trials[name][batch] = benchmark_ratio.ratio(times[ORIGINAL], time)
        others = sorted((name for name in contenders if name != ORIGINAL), key=lambda name: -trials[name][batch].value)
        faster = [name for name in others[:_CONTENDERS] if trials[name][batch].value >= choice.MIN_RATIO]
        contenders = {name: sessions[name] for name in (ORIGINAL, *faster)}
        seconds_per_case = sum(float(np.median(times[name])) for name in contenders) / batch / 1000
        if seconds_per_case * batches.typical * benchmark_ratio.MIN_ROUNDS > _MAX_SECONDS:
            break
    return trials, None


def in_openvino(
    stack: ExitStack, graphs: Mapping[str, Path | bytes], inputs: Arrays, batches: Range
) -> tuple[dict[str, Session], Trials]:
    """The sessions of all forms in OpenVINO, and their speedups; on a busy machine in processor time on one thread."""
    sessions = {name: stack.enter_context(openvino.start(graph)) for name, graph in graphs.items()}
    trials, busy = measure(sessions, inputs, batches)
    if busy:
        single = {name: stack.enter_context(openvino.start(graph, threads=1)) for name, graph in graphs.items()}
        trials, _ = measure(single, inputs, batches, single=True)
    return sessions, trials


def relative(trials: Trials, name: str, other: str) -> float:
    """The speed of a form over another one: the geometric mean over the batch sizes at which both were timed."""
    batches = trials[name].keys() & trials[other].keys()
    ratios = [trials[name][batch].value / trials[other][batch].value for batch in batches]
    return float(np.exp(np.mean(np.log(ratios)))) if ratios else 1.0


def by_form(trials: Trials) -> dict[str, list[Ratio]]:
    """The speedups of the forms that were timed at every batch size."""
    batches = trials.get(ORIGINAL, {})
    return {
        name: list(ratios.values())
        for name, ratios in trials.items()
        if name != ORIGINAL and len(ratios) == len(batches)
    }
