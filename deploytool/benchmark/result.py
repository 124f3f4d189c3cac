"""A benchmark of a run: what every way to run it took, beside one of them, and what may be said of that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploytool import serde
from deploytool.benchmark import comparison
from deploytool.benchmark.machine_state import Conditions
from deploytool.benchmark.ratio import Ratio
from deploytool.errors import BadInput
from deploytool.host import files
from deploytool.spec import GateOutcome, SpeedVerdict, Status, spoken

SCHEMA = "deploytool.bench/2"
FILE = "bench.json"


@dataclass(frozen=True)
class Latency:
    """What one way took in the rounds of one batch, in milliseconds from host memory to host memory.

    `wall_ms` holds every round as it was, in order, and the percentiles are those of it; `p99_ms` is None where a
    hundredth of the rounds is less than one. `cpu_ms` is the median of the processor time of all threads, `held_up` the
    share of rounds in which these did not get the processors they were ready to use. `gpu_ms` is the median between
    CUDA events around the model, `enqueue_ms` that of handing it over, `launch_bound` whether the GPU waits for that.
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
    """One way: the stage that made its file, or the form of the eager model where there is none.

    `ratio` says how many times faster than the baseline it is, `cpu_ratio` how many times less processor time it takes,
    which leaves out the waiting on a busy machine (on one thread of a CPU: threads that spin would count).
    `reason` says why it was not measured, or why there is no verdict.
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
    """All ways at one batch, timed in turn; `control` is the baseline beside a second session of itself."""

    batch: int
    rounds: int
    conditions: Conditions
    control: Ratio
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Gate:
    """A speed-up that was asked for at every batch, and what became of it for what ships; `reason` says why."""

    min_speedup: float
    name: str
    outcome: GateOutcome
    reason: str


@dataclass(frozen=True)
class Bench:
    """What `deploytool bench RUN` found; `files` gives the SHA-256 of every file that it measured.

    `device` is "cpu" or "cuda", and `machine` its name. The page shows it only while the files are still those.
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
    """Writes RUN/bench.json, whole or not at all."""
    files.publish(run / FILE, serde.text(bench).encode())
    return run / FILE


def read(run: Path) -> Bench:
    """What RUN/bench.json holds; raises BadInput if there is none, or one of another version."""
    path = run / FILE
    try:
        return serde.read(Bench, path)
    except (OSError, serde.Malformed) as error:
        raise BadInput(f"{path} is no benchmark of this version", "`deploytool bench` makes one") from error


def read_matching(run: Path) -> Bench | None:
    """What was measured of the files that the run has now; None if nobody did, or of other files."""
    try:
        kept = read(run)
    except BadInput:
        return None
    now = all((run / name).is_file() and serde.file_digest(run / name) == sha256 for name, sha256 in kept.files.items())
    return kept if now and kept.schema == SCHEMA else None


def gate(wanted: float | None, sweeps: Sequence[BatchResult], shipped: Sequence[str]) -> Gate | None:
    """The speed-up asked for against the fastest of the rows called `shipped`, at every batch.

    It is open where the spread spans it, where the machine was too uneven, and where none of them was run.
    """
    if wanted is None:
        return None
    worst = Gate(wanted, shipped[0], GateOutcome.REACHED, "")
    for sweep in sweeps:
        found = _at(wanted, [row for row in sweep.rows if row.name in shipped], sweep.batch)
        if found.outcome == GateOutcome.MISSED or worst.outcome == GateOutcome.REACHED:
            worst = found
    return worst


def _at(wanted: float, rows: Sequence[Row], batch: int) -> Gate:
    measured = [(row, row.ratio, row.verdict) for row in rows if row.ratio and row.verdict]
    if not measured:
        return Gate(wanted, rows[0].name, GateOutcome.OPEN, spoken(rows[0].status, rows[0].reason))
    row, ratio, said = max(measured, key=lambda each: each[1].low)
    interval = f"{ratio.low:.2f}–{ratio.high:.2f}× at batch {batch}"
    why = spoken(said, row.reason) if said is SpeedVerdict.NO_VERDICT else interval
    return Gate(wanted, row.name, comparison.gate_outcome(wanted, ratio, said), why)
