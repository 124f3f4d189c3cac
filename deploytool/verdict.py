"""What a report means: which checks failed, what is still to be measured, and whether a wish was met."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from deploytool.proof import Proof
from deploytool.report import MEASURED, NO_VERDICT, Gate, Hop, Reach, Report, Speed, Weights

KEEP = "--keep-fp32 auto"  # the option that mends a model which FP16 is too small or too coarse for
_HALF = ("halve", "build")  # the stages whose artifacts compute in FP16
_COARSE = 512.0  # from here on, FP16 has steps of half and more
_BEYOND = 1e38  # stands for infinite values, which JSON does not have


def reach(largest: Mapping[str, float], weights: Weights) -> Reach:
    """The reach of a graph whose nodes make values as large as `largest` says; infinite and NaN are the largest."""
    finite = {node: value if value <= _BEYOND else _BEYOND for node, value in largest.items()}
    ordered = sorted(finite, key=lambda node: -finite[node])
    coarse = tuple(node for node in ordered if finite[node] > _COARSE)
    return Reach(ordered[0], finite[ordered[0]], coarse, weights)


def tolerated(report: Report) -> dict[str, float]:
    """The largest error that was allowed in FP32, and in FP16 where the run got there."""
    limits = {hop.runner: hop.checks[-1].tolerance.max_error for hop in report.hops if hop.checks}
    return {name: limits[runner] for name, runner in (("fp32", "eager"), ("fp16", "rounded")) if runner in limits}


def gate(min_speedup: float | None, speeds: Sequence[Speed], *, engine: bool) -> Gate | None:
    """The speed-up asked for against what ships: the engine where there is one, else the fastest graph.

    It is reached when the lower bound of the interval is, on a machine that was even enough to tell.
    """
    if min_speedup is None:
        return None
    shipped = [speed for speed in speeds if (speed.stage == "build") == engine and speed.stage != "script"]
    measured = [speed for speed in shipped if speed.low is not None]
    if not measured:
        return Gate(min_speedup, shipped[0].stage, shipped[0].status, reached=False)
    best = max(measured, key=lambda speed: speed.low or 0.0)
    reached, refused = (best.low or 0.0) >= min_speedup, (best.verdict or "").startswith(NO_VERDICT)
    if reached and refused:
        return Gate(min_speedup, best.stage, best.verdict or "", reached=False)
    return Gate(min_speedup, best.stage, MEASURED, reached=reached)


def broken(report: Report) -> tuple[str, ...]:
    """One line for every check that failed."""
    lines = [line for hop in report.hops for line in broken_hop(hop)]
    if report.reach and report.reach.overflows:
        lines.append(f"FP16 overflows: {report.reach.node} makes {report.reach.largest:.3g}, and FP16 ends at 65504")
    return tuple(lines)


def broken_hop(hop: Hop) -> tuple[str, ...]:
    """One line for every check of a hop that failed."""
    return tuple(
        f"{hop.stage} against {check.against}: {', '.join(check.broken)}" for check in hop.checks if check.broken
    )


def missing(proof: Proof) -> str:
    """What a proof says the golden cases miss: how many faults, and the worst."""
    worst = max(proof.missed, key=lambda missed: missed.effect)
    matter = len(proof.missed) + sum(power.caught for family in proof.families for power in family.power.values())
    what = f"{worst.family.replace('_', ' ')} at {worst.place}"
    worst_of = f"{worst.effect:.0f}× the tolerance of the {worst.check} check"
    return f"{len(proof.missed)} of {matter} faults: {what}, {worst_of}"


def mends(report: Report) -> bool:
    """Whether keeping some layers in FP32 may mend what failed: FP16 alone did, and nothing was kept yet."""
    failed = {hop.stage for hop in report.hops for check in hop.checks if check.broken}
    searched = any(line.startswith("halve: kept in FP32") for line in report.remarks)
    return bool(broken(report)) and failed <= set(_HALF) and not searched


def unmeasured(report: Report) -> tuple[str, ...]:
    """One line for every artifact that could not be run here."""
    return tuple(f"{hop.stage}: {hop.status}" for hop in report.hops if hop.status != MEASURED)
