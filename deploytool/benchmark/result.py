"""The results of `deploytool bench` as plain data: timings, speed-ups, verdicts and the gate; reads and writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from deploytool import serde
from deploytool.benchmark import comparison
from deploytool.benchmark.machine_state import Conditions
from deploytool.benchmark.ratio import Ratio
from deploytool.errors import BadInput
from deploytool.host import files
from deploytool.results import speed_gate
from deploytool.spec import ADDED, GateOutcome, SpeedVerdict, Status, state_text

SCHEMA = "deploytool.bench/2"
FILE = "bench.json"


@dataclass(frozen=True)
class Latency:
    """The latency of one session for one batch size, in milliseconds from host memory to host memory.

    `wall_ms` holds the time of every round in order, and the percentiles are taken from it; `p99_ms` is None for fewer
    than 100 rounds. `cpu_ms` is the median processor time of all threads, `held_up` the share of rounds in which they
    did not get the processors they could have used. `gpu_ms` is the median time between CUDA events around the model,
    `enqueue_ms` the host's median time to enqueue it, and `launch_bound` says whether the GPU waits for the host.
    """

    p50_ms: float
    p90_ms: float
    p99_ms: float | None
    cpu_ms: float
    held_up: float
    wall_ms: tuple[float, ...]
    gpu_ms: float | None = None
    enqueue_ms: float | None = None
    launch_bound: bool | None = None


@dataclass(frozen=True)
class Row:
    """One session: `name` is the stage that made its file, or the variant of the eager model.

    `ratio` is the speed-up over the baseline. `cpu_ratio` is the same for processor time, which excludes waiting on a
    busy machine; it is measured on one CPU thread only, because spinning threads would count. `reason` says why the
    session was not measured, or why there is no verdict.
    """

    name: str
    file: str
    runner: str
    status: Status
    latency: Latency | None = None
    ratio: Ratio | None = None
    cpu_ratio: Ratio | None = None
    verdict: SpeedVerdict | None = None
    reason: str = ""


@dataclass(frozen=True)
class BatchResult:
    """All sessions for one batch size, timed in turn; `control` is a second baseline session against the first."""

    batch: int
    rounds: int
    conditions: Conditions
    control: Ratio
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Gate:
    """The speed-up required at every batch size, and whether the row `name` reaches it, which decides, with a reason.

    `judged` are the rows that were judged.
    """

    min_speedup: float
    name: str
    outcome: GateOutcome
    reason: str
    judged: tuple[str, ...] = field(default=(), metadata=ADDED)


@dataclass(frozen=True)
class Bench:
    """The result of `deploytool bench RUN`; `files` holds the SHA-256 of every file that it measured.

    `device` is "cpu" or "cuda", and `machine` its name. The report shows it only while the files are unchanged.
    """

    schema: str
    model: str
    device: str
    machine: str
    threads: int
    seconds: float
    baseline: str
    sweeps: tuple[BatchResult, ...]
    gate: Gate | None
    files: Mapping[str, str]
    versions: Mapping[str, str]


def write(run: Path, bench: Bench) -> Path:
    """Writes RUN/bench.json atomically."""
    files.publish(run / FILE, serde.text(bench).encode())
    return run / FILE


def read(run: Path) -> Bench:
    """Reads RUN/bench.json; raises BadInput if it does not exist or has another schema."""
    path = run / FILE
    try:
        return serde.read(Bench, path)
    except (OSError, serde.Malformed) as error:
        raise BadInput(f"{path} is not a benchmark of this version", "`deploytool bench` makes one") from error


def read_matching(run: Path) -> Bench | None:
    """The benchmark of the run's current files; None if there is none, or one of other files."""
    try:
        bench = read(run)
    except BadInput:
        return None
    paths = {run / name: sha256 for name, sha256 in bench.files.items()}
    unchanged = all(path.is_file() and serde.file_digest(path) == sha256 for path, sha256 in paths.items())
    return bench if unchanged and bench.schema == SCHEMA else None


def gate(min_speedup: float | None, sweeps: Sequence[BatchResult], groups: Sequence[Sequence[str]]) -> Gate | None:
    """The gate for the fastest row of each group, at its worst batch size; None without a minimum.

    It is open where the interval contains the minimum, where the machine was too uneven, and where no row was measured.
    The worst group decides.
    """
    if min_speedup is None:
        return None
    gates = [
        _batch_gate(min_speedup, [row for row in sweep.rows if row.name in group], sweep.batch)
        for group in groups
        for sweep in sweeps
    ]
    worst = max(gates, key=lambda gate: speed_gate.SEVERITY.index(gate.outcome))
    judged = tuple(dict.fromkeys(gate.name for gate in gates))
    return replace(worst, reason="" if worst.outcome is GateOutcome.REACHED else worst.reason, judged=judged)


def _batch_gate(min_speedup: float, rows: Sequence[Row], batch: int) -> Gate:
    measured = [(row, row.ratio, row.verdict) for row in rows if row.ratio and row.verdict]
    if not measured:
        return Gate(min_speedup, rows[0].name, GateOutcome.OPEN, state_text(rows[0].status, rows[0].reason))
    row, ratio, verdict = max(measured, key=lambda measurement: measurement[1].low)
    interval = f"{ratio.low:.2f}–{ratio.high:.2f}× at batch {batch}"
    why = state_text(verdict, row.reason) if verdict is SpeedVerdict.NO_VERDICT else interval
    return Gate(min_speedup, row.name, comparison.gate_outcome(min_speedup, ratio, verdict), why)
