"""The report: what was checked, against what, with which tolerance and verdict; terminal and files say the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from deploytool import fp16_rounding, serde
from deploytool.errors import BadInput
from deploytool.results.baked_values import BakedValue
from deploytool.results.faults import FaultsResult
from deploytool.results.output_parts import OutputPart
from deploytool.spec import Decision, GateOutcome, SpeedVerdict, Stage, Status

_FAMILY = "deploytool.results.report/"
SCHEMA = f"{_FAMILY}4"

NOISE = "noise"  # the figure that breaks where a model's own answers move further than rounding explains
COARSEST = 1e-2  # beyond one percent of the largest output, decisions with a clear margin could fall otherwise
IMPLAUSIBLE = 1e-3  # of FP32 noise: what moves so far is no rounding, or no tolerance could follow from it


@dataclass(frozen=True)
class Equality:
    """How many elements are equal where the numbers are of something (classes, places, yes or no).

    `share` of all `elements` are, in [`low`, `high`] with 95 % confidence; `tied` are those of the others that rounding
    alone may decide otherwise too, and `wrong` the rest, None where nobody knows which are tied.
    """

    share: float
    low: float
    high: float
    elements: int
    tied: int
    wrong: int | None


@dataclass(frozen=True)
class Parity:
    """How far two answers to the same inputs lie apart, over all cases.

    `max_error` is the largest absolute error over the largest absolute expected value of the same case; `snr_db` the
    power of the expected values over that of the error, in decibel, in the worst case; `top1` and `top5` the share of
    cases whose best class (five best classes) agree, ties aside, None where the outputs are no scores of classes; `bad`
    the number of values that are NaN, or infinite in the wrong place; `equal` how many agree of what is compared by
    equality, None where nothing is.
    """

    max_error: float
    cosine: float
    snr_db: float
    top1: float | None
    top5: float | None
    bad: int
    equal: Equality | None = None


@dataclass(frozen=True)
class Tolerance:
    """The worst parity that passes.

    `equal` is the least share of equal elements where nobody knows which are tied; `noise` is the largest error that
    rounding alone makes in the source model, from which the rest follows.
    """

    max_error: float
    cosine: float
    snr_db: float
    top1: float
    top5: float
    equal: float = 1.0
    noise: float = 0.0


@dataclass(frozen=True)
class Limit:
    """How far one part of an answer may stray, relative to its own scale."""

    part: OutputPart
    tolerance: Tolerance


@dataclass(frozen=True)
class Limits(Tolerance):
    """How far an answer may stray: each of its `parts`, and whatever else is compared by the figures beside them."""

    parts: tuple[Limit, ...] = ()


@dataclass(frozen=True)
class PartCheck:
    """The comparison of one part of an answer."""

    part: str
    parity: Parity
    tolerance: Tolerance
    broken: tuple[str, ...]


@dataclass(frozen=True)
class Check:
    """One comparison; `broken` names the figures beyond tolerance, and is empty when it holds.

    Parity and tolerance are those of the part of the answer that is nearest to its limits or furthest beyond, which
    `part` names; where there are several, `parts` has them all in that order.
    """

    against: str
    parity: Parity
    tolerance: Tolerance
    broken: tuple[str, ...]
    part: str = ""
    parts: tuple[PartCheck, ...] = ()

    @property
    def each(self) -> tuple[PartCheck, ...]:
        """Every part, the worst first, also where there is one alone."""
        return self.parts or (PartCheck(self.part, self.parity, self.tolerance, self.broken),)


@dataclass(frozen=True)
class ClassFlip:
    """A golden case of which an artifact names another class than the source, and the margin that was lost by it."""

    case: int
    margin: float
    source: int
    artifact: int


@dataclass(frozen=True)
class Agreement:
    """How often an artifact names the class that the FP64 source does.

    `top1` lies in [`low`, `high`] with 95 % confidence; `top5` is the share of cases whose class is among the
    artifact's five best; `flips` are the cases with another class, the worst first.
    """

    cases: int
    top1: float
    low: float
    high: float
    top5: float
    flips: tuple[ClassFlip, ...]


@dataclass(frozen=True)
class Accuracy:
    """The share of labels that the artifact and the source have right, and the cases only one of them has.

    `p_value` is McNemar's: how likely so uneven a split is by chance alone.
    """

    artifact: float
    source: float
    lost: int
    won: int
    p_value: float


@dataclass(frozen=True)
class Comparison:
    """One artifact of the road and what running it showed; `reason` says why it was not measured, where that is known.

    `noise` is the largest error that rounding alone makes in the source model, in the arithmetic of this artifact. It
    is `left_out` if it could not be made and nothing that follows needs it: then there is no file to verify anywhere.
    `remarks` are what was seen and decides nothing.
    """

    stage: Stage
    file: str
    runner: str
    device: str
    status: Status
    checks: tuple[Check, ...]
    noise: float | None = None
    agreement: Agreement | None = None
    accuracy: Accuracy | None = None
    left_out: bool = False
    remarks: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class Speed:
    """One artifact's latency beside eager's, measured in turn in one process.

    Latencies are medians in milliseconds for one batch; `ratio` is eager's over the artifact's, with the bounds of a
    95 % bootstrap interval, and `verdict` what may be said of it. `reason` says why it was not measured, or why there
    is no verdict.
    """

    stage: Stage
    file: str
    runner: str
    status: Status
    latency_ms: float | None = None
    eager_ms: float | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    verdict: SpeedVerdict | None = None
    reason: str = ""


@dataclass(frozen=True)
class Weights:
    """How many weights there are, are too small for FP16, and are kept by it with fewer digits (subnormal)."""

    all: int
    flushed: int
    subnormal: int


@dataclass(frozen=True)
class Fp16Range:
    """How near an FP16 graph comes to the ends of FP16 on the golden inputs.

    `largest` is the largest absolute value that a node makes, and `node` that node; FP16 ends at 65504. Beyond 512 FP16
    has steps of half and more: `coarse` are the nodes that get there, the largest first.
    """

    node: str
    largest: float
    coarse: tuple[str, ...]
    weights: Weights

    @property
    def overflows(self) -> bool:
        """Whether a value is beyond what FP16 can hold."""
        return self.largest > fp16_rounding.LARGEST


@dataclass(frozen=True)
class Engine:
    """One engine file: what built it, for which compute capabilities (none: what its flavour covers by itself).

    `layers` counts the network's layers by the type they give; `seconds` is the time the build took.
    """

    file: str
    bytes: int
    flavour: str
    version: str
    capabilities: tuple[str, ...]
    layers: Mapping[str, int]
    seconds: float


@dataclass(frozen=True)
class Gate:
    """A speed-up that was asked for, and what became of it for what ships: missed unless it is surely reached.

    `reason` says why it is open.
    """

    min_speedup: float
    stage: Stage
    outcome: GateOutcome
    reason: str = ""


@dataclass(frozen=True)
class Report:
    """Everything a run showed about the artifacts it made; `data` is the folder the golden images are from, if any.

    `margin` is the smallest lead of a best class over the second on the golden images, over the largest output.
    `remarks` are what its stages want to be known: what they went on without, and what they chose. `choices` are the
    options that any of its artifacts depends on, `fixed` the lines of the model that an exporter fixed.
    """

    schema: str
    model: str
    device: str
    batch: int
    rounds: int
    images: int
    margin: float
    data: str | None
    comparisons: tuple[Comparison, ...]
    speeds: tuple[Speed, ...]
    gate: Gate | None
    reach: Fp16Range | None
    proof: FaultsResult | None
    engines: tuple[Engine, ...]
    targets: tuple[Decision, ...]
    remarks: tuple[str, ...]
    versions: Mapping[str, str]
    choices: Mapping[str, serde.Json] = field(default_factory=dict)
    fixed: tuple[BakedValue, ...] = ()


def names(schema: object) -> bool:
    """Whether this is the name of a report's schema, of whatever version."""
    return isinstance(schema, str) and schema.startswith(_FAMILY)


def read(path: Path) -> Report:
    """The report of a file; raises BadInput if the file is something else, or a report of another version."""
    try:
        found = serde.read(Report, path)
    except (OSError, serde.Malformed) as error:
        raise _other(path) from error
    if found.schema != SCHEMA:
        raise _other(path)
    return found


def _other(path: Path) -> BadInput:
    return BadInput(f"{path} is no report of this version", "export again to write a new one")


def write(path: Path, report: Report) -> None:
    """Writes the report as JSON."""
    path.write_text(serde.text(report), encoding="utf-8")
