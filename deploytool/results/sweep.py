"""Data types of sweep.json: the cells of a sweep, what became of each, and the versions that they were made with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from deploytool import serde
from deploytool.errors import BadInput
from deploytool.results.measure import Inferiority
from deploytool.spec import ADDED, Precision, Range, SpeedVerdict, Stage, Status, StrEnum, Verdict

_FAMILY = "deploytool.sweep/"
SCHEMA = f"{_FAMILY}1"
FILE = "sweep.json"  # in the folder of the sweep
PAGE = "sweep.html"  # beside it
OWN, LOCK = ".sweep", "lock"  # the folder of the sweep's own state, and its lock there
SHARED = ".shared"  # the folder with a run for each group of stages that cells share
CELL_FILE = "cell.json"  # in the folder of every finished cell
MAX_BYTES = 1 << 30  # of a sweep.json: ten thousand cells are about 50 MB


@dataclass(frozen=True)
class Cell:
    """One export of a sweep; an empty string or None stands for the default of `deploytool export`.

    `name` is the name of its folder, and the same as long as the cell is the same. With `precision` fp32 the export
    ends at the FP32 graph; `target` is the device that an engine is built for, empty for none.
    """

    name: str
    model: str
    weights: str = ""
    precision: Precision = Precision.FP16
    exporter: str = "auto"
    target: str = ""
    batch: Range | None = None
    data: str = ""
    quick: bool = False


class CellState(StrEnum):
    """What became of a cell.

    `failed` has a verdict that is not a pass; `refused` ended with an error before there was a verdict; `lost` was
    given up for a reason outside of it, such as several workers that died with it or a full disk: the same command
    tries it again.
    """

    PENDING = "pending"
    PASSED = "passed"
    FAILED = "failed"
    REFUSED = "refused"
    LOST = "lost"


@dataclass(frozen=True)
class Machine:
    """Where a cell was made: the name of the machine, its processor, and its GPUs."""

    name: str
    processor: str
    gpus: tuple[str, ...] = ()


@dataclass(frozen=True)
class SpeedUp:
    """The speed-up of one file over the baseline: the ratio of latencies with its 95 % interval.

    Without a ratio, `reason` says why it was not measured.
    """

    stage: Stage
    file: str
    runner: str
    status: Status
    latency_ms: float | None
    ratio: float | None
    low: float | None
    high: float | None
    verdict: SpeedVerdict | None
    reason: str


@dataclass(frozen=True)
class Closeness:
    """How close one file is to the source: the worst of its checks, and how often the best class agrees.

    `error` is the largest error of that check, relative to the largest output, and `tolerances` the same error in
    multiples of its tolerance: up to 1 passes. `against` names the reference. Shares of cases are from 0 to 1: `top1`
    and its 95 % interval are None if the outputs are no class scores, `accuracy` and `source_accuracy` without labels.
    """

    stage: Stage
    file: str
    runner: str
    status: Status
    against: str
    error: float | None
    tolerances: float | None
    passed: bool
    top1: float | None
    top1_low: float | None
    top1_high: float | None
    accuracy: float | None
    source_accuracy: float | None


@dataclass(frozen=True)
class Drop:
    """By how much one file is below the source by the user's metric, with its 95 % interval, the margin and verdict.

    A negative drop is a gain.
    """

    stage: Stage
    file: str
    runner: str
    metric: str
    value: float
    low: float
    high: float
    margin: float
    verdict: Inferiority


@dataclass(frozen=True)
class Pending:
    """What this machine could not measure or build: the file or target, on which device it can be done, and why."""

    what: str
    device: str
    status: str
    reason: str


@dataclass(frozen=True)
class CellResult:
    """A cell with what became of it.

    `exit_code`, `problem` and `remedy` are those of `deploytool export`; 0 and empty for a passed cell. `started` and
    `ended` are UTC in seconds since 1970, as the worker's clock has it, None if it was not started. `timed` says that
    speed was measured, so that nothing else ran on that machine. `folder` is relative to the sweep. `digests` has the
    SHA-256 of every file of the run, by its path in the folder, and `sizes` its bytes. `shared` are the stages that
    several cells share, which were made once.
    """

    cell: Cell
    state: CellState
    folder: str
    verdict: Verdict | None = None
    exit_code: int = 0
    problem: str = ""
    remedy: str = ""
    seconds: float = 0.0
    started: float | None = None
    ended: float | None = None
    machine: Machine | None = None
    timed: bool = False
    digests: Mapping[str, str] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    speeds: tuple[SpeedUp, ...] = ()
    closeness: tuple[Closeness, ...] = ()
    pending: tuple[Pending, ...] = ()
    shared: tuple[Stage, ...] = ()
    drops: tuple[Drop, ...] = field(default=(), metadata=ADDED)

    @property
    def finished(self) -> bool:
        """Whether the cell need not be made again."""
        return self.state in (CellState.PASSED, CellState.FAILED, CellState.REFUSED)


@dataclass(frozen=True)
class Sweep:
    """All cells of a sweep in the order of the table.

    `options` are the options of `deploytool export` that all cells share, by name. `seconds` is the wall time of the
    last command, and `work_seconds` the sum of the cells' and shared stages' own times. `reused` counts the cells that
    an earlier command had finished. `ended` is false in what is written while a command makes the cells, and stays so
    if that command is killed.
    """

    schema: str
    versions: Mapping[str, str]
    options: Mapping[str, serde.Json]
    cells: tuple[CellResult, ...]
    started: float
    seconds: float = 0.0
    work_seconds: float = 0.0
    workers: int = 0
    reused: int = 0
    ended: bool = field(default=True, metadata=ADDED)

    @property
    def written(self) -> float:
        """When the sweep was as it is here, UTC in seconds since 1970."""
        return self.started + self.seconds

    def count(self, state: CellState) -> int:
        """How many cells are in a state."""
        return sum(result.state is state for result in self.cells)


def is_sweep(folder: Path) -> bool:
    """Whether a folder holds a sweep, in any version."""
    return (folder / FILE).is_file()


def read(folder: Path) -> Sweep:
    """The sweep in a folder; raises BadInput if it has none of this schema version."""
    path = folder / FILE
    try:
        sweep = serde.read(Sweep, path, MAX_BYTES)
    except (OSError, serde.Malformed) as error:
        problem = f"{path} is not a sweep of this schema version" if path.exists() else f"{folder} holds no sweep"
        raise BadInput(problem, "`deploytool sweep` makes one") from error
    if sweep.schema != SCHEMA:
        raise BadInput(f"{path} is not a sweep of this schema version", "run the same sweep again")
    return sweep
