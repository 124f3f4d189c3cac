"""Table rows of a page: comparisons, checks, failed figures and layers, as formatted text for the templates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

from deploytool.host import disk, rounded
from deploytool.report.run_data import RunData
from deploytool.results import runners, verdict
from deploytool.results.artifact import VARIANTS
from deploytool.results.blame import BlamedGraph, Layer
from deploytool.results.measure import MeasuredArtifact
from deploytool.results.report import IMPLAUSIBLE, NOISE, Check, Comparison, Equality, Parity, Report, Speed
from deploytool.spec import state_text

NONE = "–"
_FIGURE_NAMES = {
    "max_error": "largest error",
    "cosine": "cosine similarity",
    "snr_db": "SNR, dB",
    "top1": "top-1",
    "top5": "top-5",
    "invalid": "invalid values",
    "equal": "equal elements",
    NOISE: "the model's own noise",
}
_SHORT = {"fp32_compute": ", as converted", "fp16_emulation": ", in FP16", "bf16_emulation": ", in BF16"}
_LISTED_LAYERS = 5  # worst layers of a graph


@dataclass(frozen=True)
class ComparisonBar:
    """A row of the error plot: error against FP64, error against the previous artifact, and tolerance.

    All three are in multiples of the noise; `previous` is None if there is only one check.
    """

    label: str
    error: float
    previous: float | None
    tolerance: float
    passed: bool


@dataclass(frozen=True)
class Point:
    """A measured artifact in a Pareto plot: `latency` in milliseconds, and `value` on the vertical axis.

    `front` is true if the artifact passes and no passing artifact is both faster and more accurate.
    """

    model: str
    label: str
    latency: float
    value: float
    passed: bool
    front: bool


@dataclass(frozen=True)
class LayerRow:
    """One layer in the table of worst layers, as text; `deviates` is true if the error exceeds the noise floor."""

    module: str
    op: str
    error: str
    noise_floor: str
    multiple: str
    deviates: bool


@dataclass(frozen=True)
class LayerStrip:
    """The layers of one graph: errors in multiples of the noise floor (None if unknown), and the worst layers."""

    stage: str
    multiples: tuple[float | None, ...]
    worst: str
    deviates: bool
    layers: tuple[LayerRow, ...]


@dataclass(frozen=True)
class FailedFigure:
    """A figure beyond tolerance: name, measured value and limit."""

    figure: str
    measured: str
    limit: str


@dataclass(frozen=True)
class FailedRow(FailedFigure):
    """A failed figure with its artifact and reference."""

    artifact: str
    against: str


def label(comparison: Comparison | MeasuredArtifact) -> str:
    """The artifact; for another way to run the graph of a stage, the stage and the runner."""
    runner, file = runners.LABELS.get(comparison.runner), f"{comparison.stage}/{comparison.file}"
    subject = file if comparison.file in VARIANTS else str(comparison.stage)
    return f"{subject}, {runner}" if runner else file


def short(comparison: Comparison | Speed) -> str:
    """A short label for plots."""
    runner = _SHORT.get(comparison.runner, "")
    device = comparison.device if isinstance(comparison, Comparison) else "cpu"
    return f"{comparison.stage}{runner}" + ("" if device == "cpu" else f" ({device})")


def comparison_bars(report: Report) -> list[ComparisonBar]:
    """One bar for every measured comparison."""
    return [_bar(comparison) for comparison in report.comparisons if comparison.checks and comparison.noise]


def _bar(comparison: Comparison) -> ComparisonBar:
    first, last = comparison.checks[0], comparison.checks[-1]
    noise = last.tolerance.noise or 1.0
    previous = first.parity.max_error / (first.tolerance.noise or 1.0) if len(comparison.checks) > 1 else None
    passed = not any(check.broken for check in comparison.checks)
    return ComparisonBar(
        short(comparison), last.parity.max_error / noise, previous, last.tolerance.max_error / noise, passed
    )


def comparison_rows(run: RunData) -> Iterator[tuple[str, ...]]:
    """One row for each comparison.

    Columns: artifact, size, error against the previous artifact, error against FP64, the same in multiples of the
    noise, tolerance in multiples of the noise, top-1, status.
    """
    for comparison in run.report.comparisons:
        name = (label(comparison), _size(comparison, run.bytes_of(comparison.stage, comparison.file)))
        if not comparison.checks:
            yield (*name, NONE, NONE, NONE, NONE, NONE, state_text(comparison.status, comparison.reason))
            continue
        last = comparison.checks[-1]
        previous = error(comparison.checks[0].parity.max_error) if len(comparison.checks) > 1 else NONE
        noise = last.tolerance.noise
        multiple, limit = (
            times(value / noise) if noise else NONE for value in (last.parity.max_error, last.tolerance.max_error)
        )
        top1 = NONE if last.parity.top1 is None else f"{last.parity.top1:.0%}"
        status = "FAIL" if any(check.broken for check in comparison.checks) else "pass"
        yield (*name, previous, error(last.parity.max_error), multiple, limit, top1, status)


def _size(comparison: Comparison, size: int | None) -> str:
    if comparison.left_out:
        return NONE
    if runners.is_further(comparison.runner):
        return ""
    return "missing" if size is None else disk.size(size)


def check_rows(report: Report) -> Iterator[tuple[str, ...]]:
    """One row for each check and each part of its output, with every figure."""
    for comparison in report.comparisons:
        for check in comparison.checks:
            for part in check.part_checks:
                against = f"{check.against}, in {part.part}" if check.parts else check.against
                figures = [format_figure(field.name, getattr(part.parity, field.name)) for field in fields(Parity)]
                limit = format_figure("max_error", part.tolerance.max_error)
                yield (label(comparison), against, *figures, limit, "FAIL" if part.broken else "pass")


def failed_figures(report: Report) -> Iterator[FailedRow]:
    """Every figure of a run beyond tolerance."""
    for comparison in report.comparisons:
        for check in comparison.checks:
            for row in failed_figures_of(check):
                yield FailedRow(row.figure, row.measured, row.limit, label(comparison), check.against)


def failed_figures_of(check: Check) -> Iterator[FailedFigure]:
    """The figures of a check beyond tolerance, the worst part first."""
    for part in check.part_checks:
        suffix = f" in {part.part}" if check.parts else ""
        for name in part.broken:
            if name == NOISE:
                measured, limit = part.tolerance.noise, IMPLAUSIBLE
            else:
                measured, limit = getattr(part.parity, name), getattr(part.tolerance, name, 0)
            yield FailedFigure(f"{_FIGURE_NAMES[name]}{suffix}", *_failed_pair(name, measured, limit))


def _failed_pair(figure: str, measured: float | Equality, limit: float) -> tuple[str, str]:
    """A figure and its limit as text."""
    if isinstance(measured, Equality):
        return format_figure(figure, measured), format_figure(figure, limit)

    def text(value: float, more: int) -> str:
        return format_figure(figure, value, more)

    return rounded.apart(measured, limit, text, 0)


def format_figure(figure: str, value: float | Equality | None, more: int = 0) -> str:
    """A figure as text, with so many digits `more` than usual."""
    if value is None:
        return NONE
    if isinstance(value, Equality):
        return verdict.describe_equality(value)
    if figure in ("max_error", NOISE):
        return error(value, 1 + more)
    if figure in ("top1", "top5", "equal"):
        return f"{value:.{more}%}"
    digits = {"cosine": 8, "invalid": 0}.get(figure, 1) + more
    return f"{value:.{digits}f}"


def error(value: float, digits: int = 1) -> str:
    """A relative error, with so many digits behind the point; a value that stands for infinity is `not finite`."""
    return "not finite" if value > 1e300 else f"{value:.{digits}e}"


def times(value: float) -> str:
    """A multiple, with a precision that fits its size."""
    if value > 1e6:
        return "over a million ×"
    return f"{value:,.0f}×" if value >= 100 else f"{value:.1f}×"


def layer_strips(graphs: Sequence[BlamedGraph]) -> Iterator[LayerStrip]:
    """The layers of every graph that `blame` compared."""
    for graph in graphs:
        multiples = tuple(_multiple(layer) for layer in graph.layers)
        known = [(value, layer) for value, layer in zip(multiples, graph.layers, strict=True) if value is not None]
        known.sort(key=lambda pair: -pair[0])
        listed = tuple(_layer_row(layer, value) for value, layer in known[:_LISTED_LAYERS])
        worst = f"{listed[0].module}, {listed[0].multiple}" if listed else "unknown"
        yield LayerStrip(graph.stage, multiples, worst, bool(known) and known[0][0] > 1, listed)


def _multiple(layer: Layer) -> float | None:
    """The error of a layer in multiples of its noise floor; None if the error is unknown."""
    if layer.error is None:
        return None
    return layer.error / layer.noise_floor if layer.noise_floor else float(layer.error > 0) * 1e9


def _layer_row(layer: Layer, multiple: float) -> LayerRow:
    return LayerRow(
        layer.module or "the model itself",
        layer.op,
        error(layer.error or 0.0),
        f"{layer.noise_floor:.1e}",
        times(multiple),
        multiple > 1,
    )
