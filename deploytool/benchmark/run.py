"""Times every way to run a finished run on this desk, in turn in one process, against one that is the baseline."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from deploytool import serde
from deploytool.backends import eager, eager_variants
from deploytool.backends.session import Session
from deploytool.benchmark import comparison, machine_state, quick, ratio, result
from deploytool.benchmark.interleave import TimingSeries
from deploytool.benchmark.result import BatchResult, Bench, Latency, Row
from deploytool.data.golden import Arrays
from deploytool.errors import BadInput, MissingBackend, StageFailed
from deploytool.host import machine
from deploytool.loading.stage_inputs import StageInputs
from deploytool.parity import checks
from deploytool.parity.checks import PlannedComparison
from deploytool.results.artifact import Kind
from deploytool.spec import Job, Options, Precision, Stage, Status, spoken
from deploytool.targets import DISTRIBUTIONS

AUTO, EAGER = "auto", checks.EAGER
_CONTROL = "the baseline again"
_MOST = 1000  # rounds: p99 wants a hundred, and nothing wants more than this
_ENOUGH_FOR_P99 = 100
_WARM_UP = 0.1  # of the time for a batch
_LAUNCH_BOUND = 0.8  # of the time between the events that the host needs to hand the model over
_LIBRARIES = ("deploytool", "torch", "numpy", "onnxruntime", "onnxruntime-gpu", *DISTRIBUTIONS)

Watch = Callable[[int, int], None]


@dataclass(frozen=True)
class BenchOptions:
    """What a benchmark is to measure, `seconds` for each batch.

    `threads` is how many every session gets, `device` "cpu", "cuda" or the faster that is there with "auto", `against`
    the name of the baseline; `ladder` adds the forms of the eager model that take minutes to begin.
    """

    batches: tuple[int, ...]
    threads: int
    seconds: float
    device: str = AUTO
    baseline: str = EAGER
    torch_compile: bool = False
    min_speedup: float | None = None


def run(home: Path, given: StageInputs, asked: BenchOptions, watch: Watch) -> Bench:
    """The benchmark of the run in `home` that left `given`.

    Raises BadInput for a baseline that is not there, MissingBackend if the device or the baseline cannot run here.
    """
    source = given.source()
    weights = source.weights
    device = eager.devices()[-1] if asked.device == AUTO else str(eager.checked_device(asked.device))
    job = Job(source.definition, Options(io=_io(given)), watch)
    steps = [
        *_ladder(weights, device, torch_compile=asked.torch_compile),
        *checks.graph_comparisons(device, job, given),
        *checks.engine_comparisons(given),
    ]
    baseline = _baseline(steps, asked.baseline)
    inputs = given.golden().inputs
    with ExitStack() as stack:
        stack.enter_context(eager.using_threads(asked.threads))
        field = _Field(stack, steps, baseline, inputs, job, asked, device)
        sweeps = tuple(field.sweep(batch) for batch in asked.batches)
    files = [weights, *(home / step.stage / step.file for step in steps if step.file and not step.left_out)]
    return Bench(
        schema=result.SCHEMA,
        model=job.model.name,
        device=device,
        machine=machine.gpus()[0].name if device == "cuda" else machine.cpu(),
        threads=asked.threads,
        seconds=asked.seconds,
        baseline=row_name(baseline),
        sweeps=sweeps,
        gate=result.gate(asked.min_speedup, sweeps, _shipped(steps)),
        files={file.relative_to(home).as_posix(): serde.file_digest(file) for file in files},
        versions={each: version for each in _LIBRARIES if (version := machine.version(each))},
    )


def row_name(step: PlannedComparison) -> str:
    """What a row is called: its stage, and its file too where the stage made several."""
    return f"{step.stage}/{step.file}" if step.stage == Stage.BUILD else step.stage


def _io(given: StageInputs) -> Precision:
    """The type that the run's FP16 artifacts take."""
    for each in given.chain(Kind.REPORT):
        return serde.decode(Precision, serde.decode(dict[str, serde.Json], each.notes["serves"])["io"])
    return Precision.FP32


def _ladder(weights: Path, device: str, *, torch_compile: bool) -> list[PlannedComparison]:
    """The eager model in every form that makes sense on the device."""
    steps = []
    for form in eager_variants.VARIANTS:
        if form in eager_variants.GPU_VARIANTS and device == "cpu":
            continue
        late = form in eager_variants.SLOW_VARIANTS and not torch_compile
        status = Status.UNAVAILABLE if late else Status.MEASURED
        reason = "it takes minutes to begin; --compile measures it" if late else ""
        begin = partial(eager_variants.start, weights, device, form)
        steps.append(PlannedComparison(form, "", EAGER, device, "", begin, status=status, reason=reason))
    return steps


def _baseline(steps: Sequence[PlannedComparison], asked: str) -> PlannedComparison:
    found = next((step for step in steps if asked in (step.stage, row_name(step))), None)
    if found is None:
        names = ", ".join(row_name(step) for step in steps)
        raise BadInput(f"there is no {asked!r} to measure against", f"choose from {names}")
    if found.absent:
        why = spoken(found.status, found.reason)
        raise MissingBackend(f"{asked} cannot be the baseline: {why}", "choose another --baseline")
    return found


def _shipped(steps: Sequence[PlannedComparison]) -> list[str]:
    """What a device would run: the engines where there are some, else the graphs."""
    return [row_name(step) for step in steps if step.stage == Stage.BUILD] or [
        row_name(step) for step in steps if step.graph
    ]


class _Field:
    """Every way that can be started, started once, and timed at one batch after the other."""

    def __init__(
        self,
        stack: ExitStack,
        steps: Sequence[PlannedComparison],
        baseline: PlannedComparison,
        inputs: Arrays,
        job: Job,
        asked: BenchOptions,
        device: str,
    ) -> None:
        self._steps, self._baseline, self._inputs, self._job, self._asked = steps, baseline, inputs, job, asked
        self._on_cpu = device == "cpu"
        self._status: dict[str, tuple[Status, str]] = {}
        self._sessions: dict[str, Session] = {}
        for step in steps:
            self._open(stack, step)
        self._again = stack.enter_context(quick.start_session(baseline, asked.threads))

    def _open(self, stack: ExitStack, step: PlannedComparison) -> None:
        """Starts a way and asks it once; what is no artifact of the run may fail."""
        self._status[row_name(step)] = (step.status, step.reason)
        if step.absent:
            return
        may_fail = (MissingBackend,) if step.file else (MissingBackend, StageFailed)
        try:
            session = stack.enter_context(quick.start_session(step, self._asked.threads))
            session(**self._fed(step, self._asked.batches[0]))
        except may_fail as error:
            if step is self._baseline:
                raise
            self._status[row_name(step)] = (Status.UNAVAILABLE, str(error))
            return
        self._sessions[row_name(step)] = session

    def _fed(self, step: PlannedComparison, batch: int) -> Arrays:
        return checks.first_cases(checks.cast_inputs(step, self._inputs, self._job), batch)

    def sweep(self, batch: int) -> BatchResult:
        """All ways at one batch."""
        asked, at = self._asked, row_name(self._baseline)
        calls = {
            row_name(step): partial(self._sessions[row_name(step)], **self._fed(step, batch))
            for step in self._steps
            if row_name(step) in self._sessions
        }
        taken, seen = machine_state.time_watched(
            {**calls, _CONTROL: partial(self._again, **self._fed(self._baseline, batch))},
            asked.seconds,
            asked.threads if self._on_cpu else 1,
            warm_up_seconds=_WARM_UP * asked.seconds,
            most=_MOST,
            watch=self._job.watch,
        )
        control = ratio.ratio(taken[at].wall_ms, taken[_CONTROL].wall_ms)
        noise = max(comparison.MIN_DIFFERENCE, _apart(control))
        rows = tuple(self._row(step, taken, seen.uneven, noise) for step in self._steps)
        return BatchResult(batch, len(taken[at].wall_ms), seen, control, rows)

    def _row(self, step: PlannedComparison, taken: Mapping[str, TimingSeries], uneven: str | None, noise: float) -> Row:
        here, at = row_name(step), row_name(self._baseline)
        status, why = self._status[here]
        row = Row(here, step.file, step.runner, status, reason=why)
        if here not in taken:
            return row
        row = replace(row, latency=self._latency(here, taken[here]))
        if here == at:
            return row
        found = ratio.ratio(taken[at].wall_ms, taken[here].wall_ms)
        said, reason = comparison.verdict(
            found,
            (at, taken[at]),
            (here, taken[here]),
            threads=self._asked.threads,
            uneven=uneven,
            noise=noise,
            on_cpu=self._on_cpu,
        )
        alone = self._on_cpu and self._asked.threads == 1
        worked = ratio.ratio(taken[at].cpu_ms, taken[here].cpu_ms) if alone else None
        return replace(row, ratio=found, cpu_ratio=worked, verdict=said, reason=reason)

    def _latency(self, here: str, series: TimingSeries) -> Latency:
        wall, rounds = series.wall_ms, len(series.wall_ms)
        gpu, enqueue = (
            float(np.median(noted[-rounds:])) if (noted := getattr(self._sessions[here], clock, None)) else None
            for clock in ("gpu_ms", "enqueue_ms")
        )
        return Latency(
            p50_ms=float(np.percentile(wall, 50)),
            p90_ms=float(np.percentile(wall, 90)),
            p99_ms=float(np.percentile(wall, 99)) if rounds >= _ENOUGH_FOR_P99 else None,
            cpu_ms=float(np.median(series.cpu_ms)),
            held_up=comparison.waiting_share(series, self._asked.threads, on_cpu=self._on_cpu),
            wall_ms=tuple(round(float(each), 4) for each in wall),
            gpu_ms=gpu,
            enqueue_ms=enqueue,
            launch_bound=None if gpu is None or enqueue is None else enqueue > _LAUNCH_BOUND * gpu,
        )


def _apart(control: ratio.Ratio) -> float:
    """How far two sessions of the same are surely apart: no smaller difference means anything in this run."""
    if control.low <= 1 <= control.high:
        return 0.0
    return max(control.value, 1 / control.value) - 1
