"""Extracts the figures of a report and of a device result, by quantity and subject."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from deploytool.device.probe import ProbeResult
from deploytool.diff.compare import Value
from deploytool.results import runners
from deploytool.results.faults import CHECK_LABELS, FaultsResult
from deploytool.results.measure import MeasuredArtifact, Measures
from deploytool.results.report import Comparison, Engine, Report, Speed
from deploytool.results.verdict import part_tolerances
from deploytool.spec import Stage

Figure = tuple[str, str, Value]  # quantity, subject, value


def of_report(report: Report) -> list[Figure]:
    """All figures of a report."""
    figures = [figure for comparison in report.comparisons if comparison.checks for figure in _comparison(comparison)]
    figures += _tolerances(report)
    figures += [figure for speed in report.speeds for figure in _speed(speed)]
    figures += [figure for engine in report.engines for figure in _engine(engine)]
    if report.fp16_range:
        figures.append(("fp16_largest", Stage.FP16, Value(report.fp16_range.largest)))
    if report.faults:
        figures += _faults(report.faults)
    if report.measures:
        figures += _measures(report.measures)
    return figures


def _subject(artifact: Comparison | MeasuredArtifact) -> str:
    runner = runners.LABELS.get(artifact.runner)
    return f"{artifact.stage}/{artifact.file}" + (f" {runner}" if runner else "")


def _comparison(comparison: Comparison) -> Iterator[Figure]:
    subject = _subject(comparison)
    check = comparison.checks[-1]
    parity = check.parity
    yield "parity", subject, Value(parity.max_error)
    if noise := check.tolerance.noise:
        yield "noise", subject, Value(parity.max_error / noise)
    for part in check.parts:
        yield "parity", f"{subject} in {part.part}", Value(part.parity.max_error)
    if parity.equal:
        yield "equal", subject, Value(parity.equal.share)
    agreement = comparison.agreement
    top1, top5 = (agreement.top1, agreement.top5) if agreement else (parity.top1, parity.top5)
    yield from _class_shares(subject, top1, top5)
    if comparison.accuracy:
        yield "accuracy", subject, Value(comparison.accuracy.artifact)


def _tolerances(report: Report) -> Iterator[Figure]:
    tolerances = part_tolerances(report)
    for part, by_precision in tolerances.items():
        suffix = f" in {part}" if len(tolerances) > 1 else ""
        for precision, limit in by_precision.items():
            yield "tolerance", f"{precision}{suffix}", Value(limit.max_error)


def _class_shares(subject: str, top1: float | None, top5: float | None) -> Iterator[Figure]:
    if top1 is not None:
        yield "top1", subject, Value(top1)
    if top5 is not None:
        yield "top5", subject, Value(top5)


def _speed(speed: Speed) -> Iterator[Figure]:
    subject = runners.artifact(speed.stage, speed.file, speed.runner)
    if speed.latency_ms is not None:
        yield "p50", subject, Value(speed.latency_ms)
    if speed.ratio is not None:
        yield "speedup", subject, Value(speed.ratio, speed.low, speed.high)


def _engine(engine: Engine) -> Iterator[Figure]:
    subject, layers = f"{Stage.BUILD}/{engine.file}", sum(engine.layers.values())
    yield "size", subject, Value(float(engine.bytes))
    yield "layers", subject, Value(float(layers))
    yield "fp16_layers", subject, Value(engine.layers.get("HALF", 0) / max(layers, 1))
    yield "build_time", subject, Value(engine.seconds)


def _faults(faults: FaultsResult) -> Iterator[Figure]:
    for check, subject in CHECK_LABELS.items():
        caught, missed = faults.count(check, "caught"), faults.count(check, "missed")
        if caught + missed:
            yield "caught", subject, Value(caught / (caught + missed))
        smallest = [family.by_check[check].smallest for family in faults.families if check in family.by_check]
        if known := [error for error in smallest if error is not None]:
            yield "smallest_caught", subject, Value(min(known))


def _measures(measures: Measures) -> Iterator[Figure]:
    yield "metric", "source", Value(measures.source)
    for artifact in measures.artifacts:
        if measure := artifact.measure:
            yield "metric", _subject(artifact), Value(measure.artifact)
            difference = measure.difference
            yield "drop", _subject(artifact), Value(-difference.value, -difference.high, -difference.low)


def of_probe_results(results: Iterable[ProbeResult]) -> list[Figure]:
    """The figures of the backends that ran on a device, also of those that failed their check."""
    return [figure for result in results for figure in _probe_result(result)]


def _probe_result(result: ProbeResult) -> Iterator[Figure]:
    if result.trial is None:
        return
    subject, check = result.tier, result.trial.check
    yield "parity", subject, Value(check.parity.max_error)
    yield "tolerance", subject, Value(check.tolerance.max_error)
    if check.parity.equal:
        yield "equal", subject, Value(check.parity.equal.share)
    yield from _class_shares(subject, check.parity.top1, check.parity.top5)
    yield "p50", subject, Value(result.trial.latency_ms)
    yield "p90", subject, Value(result.trial.p90_ms)


def sorted_by_quantity(figures: Iterable[Figure]) -> dict[str, dict[str, Value]]:
    """The figures by quantity and subject; of two for the same subject the later one counts."""
    by_quantity: dict[str, dict[str, Value]] = {}
    for quantity, subject, value in figures:
        by_quantity.setdefault(quantity, {})[subject] = value
    return by_quantity
