"""The figures of a report, and of what a device tried, by quantity and place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from deploytool.device.probe import ProbeResult
from deploytool.diff import Value
from deploytool.results import verdict
from deploytool.results.faults import ENGINE, GRAPH, FaultsResult
from deploytool.results.report import Comparison, Engine, Report, Speed
from deploytool.results.verdict import part_tolerances
from deploytool.spec import Stage

_CHECKS = {GRAPH: "graph check", ENGINE: "FP16 check"}

Figure = tuple[str, str, Value]  # quantity, place, value


def of_report(found: Report) -> list[Figure]:
    """What a report says in numbers."""
    made = [figure for comparison in found.comparisons if comparison.checks for figure in _comparison(comparison)]
    made += _tolerated(found)
    made += [figure for speed in found.speeds for figure in _speed(speed)]
    made += [figure for engine in found.engines for figure in _engine(engine)]
    if found.reach:
        made.append(("reach", Stage.FP16, Value(found.reach.largest)))
    if found.proof:
        made += _proof(found.proof)
    return made


def _comparison(comparison: Comparison) -> Iterator[Figure]:
    again = f" {verdict.AGAIN[comparison.runner]}" if comparison.runner in verdict.AGAIN else ""
    place, truth = f"{comparison.stage}/{comparison.file}{again}", comparison.checks[-1].parity
    yield "parity", place, Value(truth.max_error)
    if noise := comparison.checks[-1].tolerance.noise:
        yield "noise", place, Value(truth.max_error / noise)
    for each in comparison.checks[-1].parts:
        yield "parity", f"{place} in {each.part}", Value(each.parity.max_error)
    if truth.equal:
        yield "equal", place, Value(truth.equal.share)
    top1, top5 = (
        (comparison.agreement.top1, comparison.agreement.top5) if comparison.agreement else (truth.top1, truth.top5)
    )
    yield from _shares(place, top1, top5)
    if comparison.accuracy:
        yield "accuracy", place, Value(comparison.accuracy.artifact)


def _tolerated(found: Report) -> Iterator[Figure]:
    limits = part_tolerances(found)
    for part, each in limits.items():
        where = f" in {part}" if len(limits) > 1 else ""
        yield from (("tolerated", f"{name}{where}", Value(limit.max_error)) for name, limit in each.items())


def _shares(place: str, top1: float | None, top5: float | None) -> Iterator[Figure]:
    if top1 is not None:
        yield "top1", place, Value(top1)
    if top5 is not None:
        yield "top5", place, Value(top5)


def _speed(speed: Speed) -> Iterator[Figure]:
    place = f"{speed.stage}/{speed.file}"
    if speed.latency_ms is not None:
        yield "p50", place, Value(speed.latency_ms)
    if speed.ratio is not None:
        yield "speedup", place, Value(speed.ratio, speed.low, speed.high)


def _engine(engine: Engine) -> Iterator[Figure]:
    place, layers = f"{Stage.BUILD}/{engine.file}", sum(engine.layers.values())
    yield "size", place, Value(float(engine.bytes))
    yield "layers", place, Value(float(layers))
    yield "half", place, Value(engine.layers.get("HALF", 0) / max(layers, 1))
    yield "build", place, Value(engine.seconds)


def _proof(proof: FaultsResult) -> Iterator[Figure]:
    for check, place in _CHECKS.items():
        caught, missed = proof.count(check, "caught"), proof.count(check, "missed")
        if caught + missed:
            yield "caught", place, Value(caught / (caught + missed))
        noticed = [family.power[check].smallest for family in proof.families if check in family.power]
        if found := [size for size in noticed if size is not None]:
            yield "smallest", place, Value(min(found))


def of_tried(tried: Iterable[ProbeResult]) -> list[Figure]:
    """What the ways that ran on a device showed, also those that answered wrongly."""
    return [figure for each in tried for figure in _tried(each)]


def _tried(each: ProbeResult) -> Iterator[Figure]:
    if each.trial is None:
        return
    place, shown = each.tier, each.trial.check
    yield "parity", place, Value(shown.parity.max_error)
    yield "tolerated", place, Value(shown.tolerance.max_error)
    if shown.parity.equal:
        yield "equal", place, Value(shown.parity.equal.share)
    yield from _shares(place, shown.parity.top1, shown.parity.top5)
    yield "p50", place, Value(each.trial.latency_ms)
    yield "p90", place, Value(each.trial.p90_ms)


def sorted_by_quantity(figures: Iterable[Figure]) -> dict[str, dict[str, Value]]:
    """The figures as a side keeps them; of two for one place the later counts."""
    made: dict[str, dict[str, Value]] = {}
    for quantity, place, value in figures:
        made.setdefault(quantity, {})[place] = value
    return made
