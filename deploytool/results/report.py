"""Data types of report.json: every comparison of a run with its checks, tolerances, speeds, faults and versions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from deploytool import serde
from deploytool.errors import BadInput
from deploytool.host import fp16_rounding
from deploytool.results.baked_values import BakedValue
from deploytool.results.faults import FaultsResult
from deploytool.results.fp8 import Fp8
from deploytool.results.int8 import Int8
from deploytool.results.measure import Measures
from deploytool.results.output_parts import OutputPart
from deploytool.spec import ADDED, Decision, GateOutcome, Precision, SpeedVerdict, Stage, Status, StrEnum
from deploytool.tasks.rows import DetectionRows

_FAMILY = "deploytool.report/"
SCHEMA = f"{_FAMILY}5"

NOISE = "noise"  # name of the figure that fails if the model's own outputs vary more than rounding explains
COARSEST = 1e-2  # relative to the largest output: beyond it, decisions with a clear margin could change
IMPLAUSIBLE = 1e-3  # limit of FP32 noise: more is not rounding, and no useful tolerance follows from it


class Baseline(StrEnum):
    """What the speed of artifacts is compared with: the model in eager mode, or the ONNX file as it was given."""

    EAGER = "eager"
    GIVEN = "given"

    @property
    def text(self) -> str:
        """What it is, in a sentence."""
        return "eager PyTorch" if self is Baseline.EAGER else "the given file on ONNX Runtime"


@dataclass(frozen=True)
class Equality:
    """How many elements are equal, for outputs that are compared for equality (class indices, positions, booleans).

    `share` is the equal part of all `elements`, with its 95 % interval [`low`, `high`]. Of the unequal elements, `tied`
    can change by rounding alone and `wrong` cannot; `wrong` is None if the tied elements are unknown.
    """

    share: float
    low: float
    high: float
    elements: int
    tied: int
    wrong: int | None


@dataclass(frozen=True)
class Parity:
    """The difference between two outputs for the same inputs, over all cases.

    `max_error` is the largest absolute error divided by the largest absolute expected value of the same case; `snr_db`
    is the signal-to-noise ratio of the worst case in decibels; `top1` and `top5` are the shares of cases whose best
    class (five best classes) agree, ties excepted, None if the outputs are not class scores; `invalid` is the number of
    values that are NaN, infinite or a mask value where the expected value is not; `equal` is set for outputs that are
    compared for equality.
    """

    max_error: float
    cosine: float
    snr_db: float
    top1: float | None
    top5: float | None
    invalid: int
    equal: Equality | None = None


@dataclass(frozen=True)
class Tolerance:
    """The limits of a check.

    `equal` is the smallest share of equal elements if the tied elements are unknown; `noise` is the largest error that
    rounding alone causes in the source model, relative to the largest output. The other limits are derived from it.
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
    """The tolerance of one part of an output, relative to its own scale."""

    part: OutputPart
    tolerance: Tolerance


@dataclass(frozen=True)
class Limits(Tolerance):
    """The tolerances of an output: of each of its `parts`, and the fields beside them for everything else.

    `rows` are the detections that the model selected, which are compared as a set; None for other models.
    """

    parts: tuple[Limit, ...] = ()
    rows: DetectionRows | None = field(default=None, metadata={"optional": True})


@dataclass(frozen=True)
class PartCheck:
    """The check of one part of an output; `broken` names the figures beyond tolerance."""

    part: str
    parity: Parity
    tolerance: Tolerance
    broken: tuple[str, ...]


@dataclass(frozen=True)
class Check:
    """An artifact checked against one reference; `broken` names the figures beyond tolerance, empty if it passes.

    Parity and tolerance are those of the worst part of the output, which `part` names. If there are several parts,
    `parts` lists all of them, the worst first.
    """

    against: str
    parity: Parity
    tolerance: Tolerance
    broken: tuple[str, ...]
    part: str = ""
    parts: tuple[PartCheck, ...] = ()

    @property
    def part_checks(self) -> tuple[PartCheck, ...]:
        """The check of every part, the worst first; also if there is only one part."""
        return self.parts or (PartCheck(self.part, self.parity, self.tolerance, self.broken),)


@dataclass(frozen=True)
class ClassFlip:
    """A golden case for which the artifact has another best class than the source; `margin` is the source's margin."""

    case: int
    margin: float
    source: int
    artifact: int


@dataclass(frozen=True)
class Agreement:
    """How often the best class of an artifact is that of the FP64 source.

    `top1` has the 95 % interval [`low`, `high`]; `top5` is the share of cases whose class is among the artifact's five
    best; `flips` are the cases with another class, the largest margin first.
    """

    cases: int
    top1: float
    low: float
    high: float
    top5: float
    flips: tuple[ClassFlip, ...]


@dataclass(frozen=True)
class Accuracy:
    """Accuracy of the artifact and of the source on labelled images.

    `lost` cases are correct in the source only, `won` cases in the artifact only; `p_value` is that of McNemar's test.
    """

    artifact: float
    source: float
    lost: int
    won: int
    p_value: float


@dataclass(frozen=True)
class Comparison:
    """One artifact compared with its references: the runner, the status and every check.

    `reason` says why the artifact was not measured. `noise` is the largest error that rounding alone causes in the
    source model, in the arithmetic of this artifact. `left_out` is true if the artifact could not be made and no later
    stage needs it: there is no file to verify. `remarks` are observations that do not affect the verdict.
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
class Gain:
    """How many times as fast an artifact is as another, such as INT8 as the FP32 graph in ONNX Runtime.

    [`low`, `high`] is the 95 % interval.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Speed:
    """Latency of one artifact and of the report's baseline, measured in interleaved rounds in one process.

    Latencies are medians in milliseconds for one batch; `ratio` is the baseline's latency over the artifact's, with the
    bounds `low` and `high` of its 95 % bootstrap interval and the `verdict` that they allow. `reason` says why the
    artifact was not measured, or why there is no verdict. `gain` is that of an INT8 graph, from the same rounds.
    `own_gain` is that over what the same runtime runs otherwise: the FP32 graph that is best in it, or for an engine in
    INT8, FP8 or BF16 the FP16 engine of the same plan.
    """

    stage: Stage
    file: str
    runner: str
    status: Status
    latency_ms: float | None = None
    baseline_ms: float | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    verdict: SpeedVerdict | None = None
    reason: str = ""
    gain: Gain | None = None
    own_gain: Gain | None = field(default=None, metadata=ADDED)


@dataclass(frozen=True)
class Weights:
    """Weights in FP16: their number, and how many are flushed to zero or become subnormal (lose precision)."""

    total: int
    flushed: int
    subnormal: int


@dataclass(frozen=True)
class Fp16Range:
    """The range of values of an FP16 graph on the golden inputs.

    `largest` is the largest absolute output of a node, and `node` is that node; the FP16 maximum is 65504. `coarse`
    lists the nodes with outputs above 512, where the FP16 step is 0.5 or more, the largest first.
    """

    node: str
    largest: float
    coarse: tuple[str, ...]
    weights: Weights

    @property
    def overflows(self) -> bool:
        """Whether a value exceeds the FP16 maximum."""
        return self.largest > fp16_rounding.LARGEST


@dataclass(frozen=True)
class Engine:
    """One engine file: its builder (`flavour`, `version`) and the compute capabilities that it was built for.

    Without `capabilities` it is for those that the builder covers by default. `layers` counts the layers of the network
    by output type; `seconds` is the build time; `precision` is that of the graph it was built from; `kernels` are those
    that the build log lists, None where it lists none; `stripped` says that its weights are only in its graph.
    """

    file: str
    bytes: int
    flavour: str
    version: str
    capabilities: tuple[str, ...]
    layers: Mapping[str, int]
    seconds: float
    precision: Precision = field(default=Precision.FP16, metadata=ADDED)
    kernels: int | None = field(default=None, metadata=ADDED)
    stripped: bool = field(default=False, metadata=ADDED)


@dataclass(frozen=True)
class Gate:
    """The required speed-up and its outcome for the row of the speed table that decides, which `stage` made.

    It is reached if the lower bound reaches it. `reason` says why the outcome is open. `judged` are the rows that were
    judged, the one that decides first.
    """

    min_speedup: float
    stage: Stage
    outcome: GateOutcome
    reason: str = ""
    judged: tuple[str, ...] = field(default=(), metadata=ADDED)

    @property
    def row(self) -> str:
        """The row that decides; its stage in the report of an older version."""
        return self.judged[0] if self.judged else str(self.stage)


@dataclass(frozen=True)
class Report:
    """The results of a run; `images` is the number of golden cases, and `data` the folder that they come from, if any.

    `margin` is the smallest lead of the best class over the second on the golden cases, relative to the largest output.
    `remarks` are choices of the stages and parts that they left out. `options` are the options that an artifact depends
    on, and `baked_values` the lines of the model that became constants at export. `baseline` is what speeds are
    compared with. `selections` are the places in the model that select other rows after rounding, and so make its noise
    too large. `measures` are those of the user's metric, or of the agreement with the source. `int8` and `fp8`
    say how the graphs in 8 bits were made, if there are any.
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
    fp16_range: Fp16Range | None
    faults: FaultsResult | None
    engines: tuple[Engine, ...]
    targets: tuple[Decision, ...]
    remarks: tuple[str, ...]
    versions: Mapping[str, str]
    options: Mapping[str, serde.Json] = field(default_factory=dict)
    baked_values: tuple[BakedValue, ...] = ()
    baseline: Baseline = Baseline.EAGER
    selections: tuple[str, ...] = ()
    measures: Measures | None = None
    int8: Int8 | None = None
    fp8: Fp8 | None = field(default=None, metadata=ADDED)


def is_report_schema(schema: object) -> bool:
    """Whether a schema name is that of a report, in any version."""
    return isinstance(schema, str) and schema.startswith(_FAMILY)


def read(path: Path) -> Report:
    """The report in a file; raises BadInput if the file is not a report of this schema version."""
    try:
        report = serde.read(Report, path)
    except (OSError, serde.Malformed) as error:
        raise _other_version(path) from error
    if report.schema != SCHEMA:
        raise _other_version(path)
    return report


def _other_version(path: Path) -> BadInput:
    return BadInput(f"{path} is not a report of this schema version", "export again to write a new one")


def write(path: Path, report: Report) -> None:
    """Writes the report as JSON."""
    path.write_text(serde.text(report), encoding="utf-8")
