"""What a page shows of a run, in words and numbers: plain rows, which the templates and the plots only lay out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

from deploytool.host import disk
from deploytool.report.run_data import RunData
from deploytool.results import verdict
from deploytool.results.blame import Layer
from deploytool.results.blame import TracedGraph as Blamed
from deploytool.results.report import IMPLAUSIBLE, NOISE, Check, Comparison, Equality, Parity, Report, Speed
from deploytool.spec import spoken

NONE = "–"
_FIGURES = {
    "max_error": "largest error",
    "cosine": "cosine",
    "snr_db": "signal to noise, dB",
    "top1": "top-1",
    "top5": "top-5",
    "bad": "NaN, infinite or misplaced values",
    "equal": "equal elements",
    NOISE: "the model's own noise",
}
_WORST = 5  # layers of a graph that are listed


@dataclass(frozen=True)
class Link:
    """One artifact in the chain: errors and what is tolerated, in multiples of the noise; `label` is short."""

    label: str
    truth: float
    before: float | None
    allowed: float
    held: bool


@dataclass(frozen=True)
class Point:
    """One measured artifact: whether its checks hold, and whether none that does is faster and nearer (`front`)."""

    model: str
    label: str
    latency: float
    right: float
    held: bool
    front: bool


@dataclass(frozen=True)
class Strip:
    """The layers of one graph: each one's error in multiples of its noise floor, and in words which is the worst."""

    stage: str
    multiples: tuple[float | None, ...]
    worst: str
    wrong: bool
    listed: tuple[tuple[str, str, str, str, str, bool], ...]


@dataclass(frozen=True)
class Figure:
    """A figure beyond tolerance: what it is, what was found, and what is tolerated."""

    figure: str
    found: str
    allowed: str


@dataclass(frozen=True)
class Broken(Figure):
    """The same, of which artifact and against what."""

    artifact: str
    against: str


def label(comparison: Comparison) -> str:
    """The artifact's name, or in which way its FP16 graph was run once more."""
    again = verdict.AGAIN.get(comparison.runner)
    return f"{comparison.stage}, {again}" if again else f"{comparison.stage}/{comparison.file}"


def short(comparison: Comparison | Speed) -> str:
    """The same for a plot."""
    again = {"fp32_compute": "as converted", "fp16_emulation": "in FP16"}.get(comparison.runner)
    on = f" ({comparison.device})" if isinstance(comparison, Comparison) and comparison.device != "cpu" else ""
    return f"{comparison.stage}{', ' if again else ''}{again or ''}{on}"


def links(report: Report) -> list[Link]:
    """The chain, as far as it was measured."""
    return [_link(comparison) for comparison in report.comparisons if comparison.checks and comparison.noise]


def _link(comparison: Comparison) -> Link:
    truth = comparison.checks[-1]
    noise, nearest = truth.tolerance.noise or 1.0, comparison.checks[0]
    before = nearest.parity.max_error / (nearest.tolerance.noise or 1.0) if len(comparison.checks) > 1 else None
    held = not any(check.broken for check in comparison.checks)
    return Link(short(comparison), truth.parity.max_error / noise, before, truth.tolerance.max_error / noise, held)


def chain(facts: RunData) -> Iterator[tuple[str, ...]]:
    """A row for each comparison: artifact, size, errors (the last in units of noise), tolerance, top-1, verdict."""
    for comparison in facts.report.comparisons:
        size = facts.bytes_of(comparison.stage, comparison.file)
        name = (label(comparison), _size(comparison, size))
        if not comparison.checks:
            yield (*name, NONE, NONE, NONE, NONE, NONE, spoken(comparison.status, comparison.reason))
            continue
        truth = comparison.checks[-1]
        before = error(comparison.checks[0].parity.max_error) if len(comparison.checks) > 1 else NONE
        both = (truth.parity.max_error, truth.tolerance.max_error)
        noise = truth.tolerance.noise
        over, allowed = (times(value / noise) if noise else NONE for value in both)
        top1 = NONE if truth.parity.top1 is None else f"{truth.parity.top1:.0%}"
        state = "FAIL" if any(check.broken for check in comparison.checks) else "pass"
        yield (*name, before, error(truth.parity.max_error), over, allowed, top1, state)


def _size(comparison: Comparison, size: int | None) -> str:
    if comparison.left_out:
        return NONE
    return "" if comparison.runner in verdict.AGAIN else "missing" if size is None else disk.size(size)


def every(report: Report) -> Iterator[tuple[str, ...]]:
    """A row for each check of each comparison, and for each part where there are several, with all its figures."""
    for comparison in report.comparisons:
        for check in comparison.checks:
            for each in check.each:
                where = f"{check.against}, in {each.part}" if check.parts else check.against
                cells = [shown(field.name, getattr(each.parity, field.name)) for field in fields(Parity)]
                allowed = shown("max_error", each.tolerance.max_error)
                yield (label(comparison), where, *cells, allowed, "FAIL" if each.broken else "pass")


def broken(report: Report) -> Iterator[Broken]:
    """Every figure beyond tolerance."""
    for comparison in report.comparisons:
        for check in comparison.checks:
            for each in figures(check):
                yield Broken(each.figure, each.found, each.allowed, label(comparison), check.against)


def figures(check: Check) -> Iterator[Figure]:
    """What of a check is beyond tolerance, the worst part first."""
    for each in check.each:
        where = f" in {each.part}" if check.parts else ""
        for name in each.broken:
            found, limit = (
                (each.tolerance.noise, IMPLAUSIBLE)
                if name == NOISE
                else (getattr(each.parity, name), getattr(each.tolerance, name, 0))
            )
            yield Figure(f"{_FIGURES[name]}{where}", shown(name, found), shown(name, limit))


def shown(figure: str, value: float | Equality | None) -> str:
    """A figure as people read it."""
    if value is None:
        return NONE
    if isinstance(value, Equality):
        return verdict.describe_equality(value)
    if figure in ("max_error", NOISE):
        return error(value)
    if figure in ("top1", "top5", "equal"):
        return f"{value:.0%}"
    return f"{value:.8f}" if figure == "cosine" else f"{value:.0f}" if figure == "bad" else f"{value:.1f}"


def error(value: float) -> str:
    """An error in two digits; what is no number has none."""
    return "not finite" if value > 1e300 else f"{value:.1e}"


def times(value: float) -> str:
    """So many times something, in as many digits as matter."""
    return "beyond all measure" if value > 1e6 else f"{value:,.0f}×" if value >= 100 else f"{value:.1f}×"


def strips(comparisons: Sequence[Blamed]) -> Iterator[Strip]:
    """The layers of every graph that blame looked into, the worst of them listed."""
    for comparison in comparisons:
        multiples = tuple(_multiple(layer) for layer in comparison.layers)
        judged = [(each, layer) for each, layer in zip(multiples, comparison.layers, strict=True) if each is not None]
        judged.sort(key=lambda pair: -pair[0])
        listed = tuple(_layer(layer, each) for each, layer in judged[:_WORST])
        worst = f"{judged[0][1].module or 'the model itself'}, {times(judged[0][0])}" if judged else "none is known"
        yield Strip(comparison.stage, multiples, worst, bool(judged) and judged[0][0] > 1, listed)


def _multiple(layer: Layer) -> float | None:
    return None if layer.error is None else layer.error / layer.floor if layer.floor else float(layer.error > 0) * 1e9


def _layer(layer: Layer, multiple: float) -> tuple[str, str, str, str, str, bool]:
    floor = f"{layer.floor:.1e}"
    return (
        layer.module or "the model itself",
        layer.op,
        error(layer.error or 0.0),
        floor,
        times(multiple),
        multiple > 1,
    )
