"""Times every session of a finished run on this machine, in turn in one process, against a baseline."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from deploytool import serde
from deploytool.backends import eager, eager_variants, given_graph, openvino
from deploytool.backends.session import Session
from deploytool.benchmark import comparison, eight_bits, machine_state, quick, ratio, result
from deploytool.benchmark.interleave import TimingSeries
from deploytool.benchmark.result import BatchResult, Bench, Latency, Row
from deploytool.data.golden import Arrays
from deploytool.errors import BadInput, MissingBackend, StageFailed
from deploytool.host import machine
from deploytool.loading.stage_inputs import StageInputs
from deploytool.parity import checks
from deploytool.parity.checks import PlannedComparison
from deploytool.results import report, runners, speed_gate
from deploytool.results.artifact import Kind, openvino_graph
from deploytool.results.report import Baseline
from deploytool.spec import Job, Model, Options, Precision, Stage, Status, state_text
from deploytool.targets import DISTRIBUTIONS

AUTO = "auto"
OPENVINO_ROW = "openvino"  # the FP32 graph in OpenVINO
_CONTROL = "the baseline again"
_MAX_ROUNDS = 1000  # p99 needs a hundred, and nothing needs more than this
_MIN_ROUNDS_FOR_P99 = 100
_WARM_UP_SHARE = 0.1  # of the time for a batch size
_LAUNCH_BOUND_SHARE = 0.8  # of the GPU time: with a longer enqueue time, the GPU waits for the host
_LIBRARIES = ("deploytool", "torch", "numpy", "onnxruntime", "onnxruntime-gpu", "openvino", *DISTRIBUTIONS)

Watch = Callable[[int, int], None]


@dataclass(frozen=True)
class BenchOptions:
    """The options of a benchmark; `seconds` is the time for each batch size.

    `threads` is the number of threads of every session; `device` is "cpu", "cuda" or, with "auto", the fastest that is
    available; `baseline` is the name of a row, "auto" for the original; `torch_compile` adds the variants of the eager
    model that take minutes to start.
    """

    batches: tuple[int, ...]
    threads: int
    seconds: float
    device: str = AUTO
    baseline: str = AUTO
    torch_compile: bool = False
    min_speedup: float | None = None


def run(home: Path, artifacts: StageInputs, options: BenchOptions, watch: Watch) -> Bench:
    """Benchmarks the run in `home`, which left these artifacts.

    Raises BadInput for an unknown baseline, MissingBackend if the device or the baseline is not available here.
    """
    source = artifacts.source()
    weights = source.weights
    device = eager.devices()[-1] if options.device == AUTO else str(eager.checked_device(options.device))
    job = Job(source.definition, Options(io=_io(artifacts)), watch)
    steps = [
        *_originals(source.definition, weights, device, options),
        *checks.graph_comparisons(device, job, artifacts),
        *checks.engine_comparisons(artifacts),
        *_in_openvino(artifacts, device, options.threads),
        *eight_bits.steps(artifacts, device),
    ]
    original = quick.baseline(source.definition)
    baseline = _baseline(steps, original if options.baseline == AUTO else options.baseline)
    inputs = artifacts.golden().inputs
    with ExitStack() as stack:
        stack.enter_context(eager.using_threads(options.threads))
        sessions = _Sessions(stack, steps, baseline, inputs, job, options, device)
        sweeps = tuple(sessions.measure(batch) for batch in options.batches)
    files = [weights, *(home / step.stage / step.file for step in steps if step.file and not step.left_out)]
    return Bench(
        schema=result.SCHEMA,
        model=job.model.name,
        device=device,
        machine=machine.gpus()[0].name if device == "cuda" else machine.cpu(),
        threads=options.threads,
        seconds=options.seconds,
        baseline=row_name(baseline),
        sweeps=sweeps,
        gate=result.gate(options.min_speedup, sweeps, _groups(steps, sweeps, _asked(artifacts))),
        files={file.relative_to(home).as_posix(): serde.file_digest(file) for file in files},
        versions={library: version for library in _LIBRARIES if (version := machine.version(library))},
    )


def row_name(step: PlannedComparison) -> str:
    """The name of a row: the stage, of engines with the file, and of INT8 with the runtime if it is OpenVINO."""
    if step.stage == Stage.INT8:
        return runners.label(Stage.INT8, step.runner)
    return f"{step.stage}/{step.file}" if step.stage == Stage.BUILD else step.stage


def _io(artifacts: StageInputs) -> Precision:
    """The input type of the run's FP16 artifacts."""
    for artifact in artifacts.chain(Kind.REPORT):
        return serde.decode(Precision, serde.decode(dict[str, serde.Json], artifact.notes["serves"])["io"])
    return Precision.FP32


def _originals(model: Model, weights: Path, device: str, options: BenchOptions) -> list[PlannedComparison]:
    """The forms of the original: those of the eager model, or the given file on ONNX Runtime."""
    if quick.baseline(model) is Baseline.EAGER:
        return _eager_variants(weights, device, torch_compile=options.torch_compile)
    start = partial(given_graph.start, weights, device, options.threads)
    return [PlannedComparison(Baseline.GIVEN, "", "onnxruntime", device, "", start)]


def _eager_variants(weights: Path, device: str, *, torch_compile: bool) -> list[PlannedComparison]:
    """The variants of the eager model that are useful on the device."""
    steps = []
    for variant in eager_variants.VARIANTS:
        if variant in eager_variants.GPU_VARIANTS and device == "cpu":
            continue
        skipped = variant in eager_variants.SLOW_VARIANTS and not torch_compile
        status = Status.UNAVAILABLE if skipped else Status.MEASURED
        reason = "it takes minutes to begin; --compile measures it" if skipped else ""
        start = partial(eager_variants.start, weights, device, variant)
        steps.append(PlannedComparison(variant, "", checks.EAGER, device, "", start, status=status, reason=reason))
    return steps


def _in_openvino(artifacts: StageInputs, device: str, threads: int) -> list[PlannedComparison]:
    """A row for the FP32 graph that OpenVINO runs on a device, where OpenVINO is installed."""
    single = [graph for graph in artifacts.chain(Kind.GRAPH) if graph.made_by is not Stage.FP16]
    if device != "cpu" or not single or not openvino.is_installed():
        return []
    graph = openvino_graph(single[-1].path) or single[-1].path
    return [
        PlannedComparison(OPENVINO_ROW, "", "openvino", device, "", partial(openvino.start, graph, device, threads))
    ]


def _baseline(steps: Sequence[PlannedComparison], name: str) -> PlannedComparison:
    """The step of that name; raises BadInput if there is none, MissingBackend if it is not available here."""
    baseline = next((step for step in steps if name in (step.stage, row_name(step))), None)
    if baseline is None:
        names = ", ".join(row_name(step) for step in steps)
        raise BadInput(f"there is no {name!r} to measure against", f"choose from {names}")
    if baseline.absent:
        why = state_text(baseline.status, baseline.reason)
        raise MissingBackend(f"{name} cannot be the baseline: {why}", "choose another --baseline")
    return baseline


def _asked(artifacts: StageInputs) -> tuple[Precision, ...]:
    """The precisions that the run was asked for."""
    options = [report.read(artifact.path).options for artifact in artifacts.chain(Kind.REPORT)]
    return serde.decode(tuple[Precision, ...], options[-1].get("precision", [])) if options else ()


def _groups(
    steps: Sequence[PlannedComparison], sweeps: Sequence[BatchResult], asked: Collection[Precision]
) -> list[list[str]]:
    """The rows that are judged, by precision as in `speed_gate.judge`; the fastest of each group counts."""
    engines = [step for step in steps if step.stage == Stage.BUILD]
    timed = {row.name for sweep in sweeps for row in sweep.rows if row.ratio}
    narrow = [
        [row_name(step) for step in steps if precision in (step.precision, _of_stage(step))]
        for precision in speed_gate.NARROW
        if precision in asked
    ]
    narrow = [rows for rows in narrow if timed.intersection(rows)]
    half = [row_name(step) for step in engines if step.precision is Precision.FP16]
    graphs = [row_name(step) for step in steps if step.graph and step.stage != Stage.INT8]
    return [*narrow, *([half or graphs] if Precision.FP16 in asked or not narrow else [])]


def _of_stage(step: PlannedComparison) -> Precision | None:
    """The precision of the stage that made a graph; None for what is no graph."""
    return Stage(step.stage).precision if step.graph else None


class _Sessions:
    """The sessions of all steps that are available, started once, and timed for one batch size after the other."""

    def __init__(
        self,
        stack: ExitStack,
        steps: Sequence[PlannedComparison],
        baseline: PlannedComparison,
        inputs: Arrays,
        job: Job,
        options: BenchOptions,
        device: str,
    ) -> None:
        self._steps, self._baseline, self._inputs, self._job, self._options = steps, baseline, inputs, job, options
        self._on_cpu = device == "cpu"
        self._status: dict[str, tuple[Status, str]] = {}
        self._sessions: dict[str, Session] = {}
        for step in steps:
            self._start(stack, step)
        self._control = stack.enter_context(quick.start_session(baseline, options.threads))

    def _start(self, stack: ExitStack, step: PlannedComparison) -> None:
        """Starts the session of a step and calls it once; only an eager variant may fail with StageFailed."""
        self._status[row_name(step)] = (step.status, step.reason)
        if step.absent:
            return
        tolerated = (MissingBackend,) if step.file else (MissingBackend, StageFailed)
        try:
            session = stack.enter_context(quick.start_session(step, self._options.threads))
            session(**self._batch_inputs(step, self._options.batches[0]))
        except tolerated as error:
            if step is self._baseline:
                raise
            self._status[row_name(step)] = (Status.UNAVAILABLE, str(error))
            return
        self._sessions[row_name(step)] = session

    def _batch_inputs(self, step: PlannedComparison, batch: int) -> Arrays:
        return checks.first_cases(checks.cast_inputs(step, self._inputs, self._job), batch)

    def measure(self, batch: int) -> BatchResult:
        """Times all sessions with one batch size."""
        options, baseline = self._options, row_name(self._baseline)
        calls = {
            row_name(step): partial(self._sessions[row_name(step)], **self._batch_inputs(step, batch))
            for step in self._steps
            if row_name(step) in self._sessions
        }
        calls[_CONTROL] = partial(self._control, **self._batch_inputs(self._baseline, batch))
        timings, conditions = machine_state.time_watched(
            calls,
            options.seconds,
            options.threads if self._on_cpu else 1,
            warm_up_seconds=_WARM_UP_SHARE * options.seconds,
            most=_MAX_ROUNDS,
            watch=self._job.watch,
        )
        control = ratio.ratio(timings[baseline].wall_ms, timings[_CONTROL].wall_ms)
        noise = max(comparison.MIN_DIFFERENCE, _difference(control))
        rows = tuple(self._row(step, timings, conditions.uneven, noise) for step in self._steps)
        return BatchResult(batch, len(timings[baseline].wall_ms), conditions, control, rows)

    def _row(
        self, step: PlannedComparison, timings: Mapping[str, TimingSeries], uneven: str | None, noise: float
    ) -> Row:
        name, baseline = row_name(step), row_name(self._baseline)
        status, why = self._status[name]
        row = Row(name, step.file, step.runner, status, reason=why)
        if name not in timings:
            return row
        row = replace(row, latency=self._latency(name, timings[name]))
        if name == baseline:
            return row
        speedup = ratio.ratio(timings[baseline].wall_ms, timings[name].wall_ms)
        verdict, reason = comparison.verdict(
            speedup,
            (baseline, timings[baseline]),
            (name, timings[name]),
            threads=self._options.threads,
            uneven=uneven,
            noise=noise,
            on_cpu=self._on_cpu,
        )
        one_thread = self._on_cpu and self._options.threads == 1
        cpu_ratio = ratio.ratio(timings[baseline].cpu_ms, timings[name].cpu_ms) if one_thread else None
        return replace(row, ratio=speedup, cpu_ratio=cpu_ratio, verdict=verdict, reason=reason)

    def _latency(self, name: str, series: TimingSeries) -> Latency:
        wall, rounds = series.wall_ms, len(series.wall_ms)
        gpu, enqueue = (
            float(np.median(recorded[-rounds:])) if (recorded := getattr(self._sessions[name], clock, None)) else None
            for clock in ("gpu_ms", "enqueue_ms")
        )
        return Latency(
            p50_ms=float(np.percentile(wall, 50)),
            p90_ms=float(np.percentile(wall, 90)),
            p99_ms=float(np.percentile(wall, 99)) if rounds >= _MIN_ROUNDS_FOR_P99 else None,
            cpu_ms=float(np.median(series.cpu_ms)),
            held_up=comparison.waiting_share(series, self._options.threads, on_cpu=self._on_cpu),
            wall_ms=tuple(round(float(milliseconds), 4) for milliseconds in wall),
            gpu_ms=gpu,
            enqueue_ms=enqueue,
            launch_bound=None if gpu is None or enqueue is None else enqueue > _LAUNCH_BOUND_SHARE * gpu,
        )


def _difference(control: ratio.Ratio) -> float:
    """The significant difference between two sessions of one file: a smaller one has no meaning in this benchmark."""
    if control.low <= 1 <= control.high:
        return 0.0
    return max(control.value, 1 / control.value) - 1
