"""Takes from a finished run what the table of a sweep shows of it."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from pathlib import Path

from deploytool.errors import DeployError
from deploytool.host import machine
from deploytool.results import verdict
from deploytool.results.report import Comparison, Report
from deploytool.results.sweep import Closeness, Drop, Machine, Pending, SpeedUp
from deploytool.spec import Status, TargetPlan, Verdict


def this_machine() -> Machine:
    """The machine that this process runs on."""
    return Machine(platform.node(), machine.cpu(), tuple(gpu.name for gpu in machine.gpus()))


def speeds(report: Report) -> tuple[SpeedUp, ...]:
    """The speed-up of every file over the baseline."""
    return tuple(
        SpeedUp(
            speed.stage,
            speed.file,
            speed.runner,
            speed.status,
            speed.latency_ms,
            speed.ratio,
            speed.low,
            speed.high,
            speed.verdict,
            speed.reason,
        )
        for speed in report.speeds
    )


def closeness(report: Report) -> tuple[Closeness, ...]:
    """How close every file is to the source."""
    return tuple(_closeness(comparison) for comparison in report.comparisons if not comparison.left_out)


def _closeness(comparison: Comparison) -> Closeness:
    """The check that comes closest to its tolerance, or exceeds it most."""
    ratios: list[tuple[float | None, float | None, str]] = [
        (part.parity.max_error / part.tolerance.max_error, part.parity.max_error, check.against)
        for check in comparison.checks
        for part in check.part_checks
        if part.tolerance.max_error > 0
    ]
    tolerances, error, against = max(ratios, key=lambda ratio: ratio[0] or 0.0, default=(None, None, ""))
    agreement, accuracy = comparison.agreement, comparison.accuracy
    return Closeness(
        comparison.stage,
        comparison.file,
        comparison.runner,
        comparison.status,
        against,
        error,
        tolerances,
        passed=comparison.status is Status.MEASURED and not any(check.broken for check in comparison.checks),
        top1=agreement.top1 if agreement else None,
        top1_low=agreement.low if agreement else None,
        top1_high=agreement.high if agreement else None,
        accuracy=accuracy.artifact if accuracy else None,
        source_accuracy=accuracy.source if accuracy else None,
    )


def drops(report: Report) -> tuple[Drop, ...]:
    """The drop of every file that the user's metric was measured for; none without a metric."""
    measures = report.measures
    return tuple(
        Drop(
            artifact.stage,
            artifact.file,
            artifact.runner,
            measures.name,
            -measure.difference.value,
            -measure.difference.high,
            -measure.difference.low,
            measures.margin,
            measure.verdict,
        )
        for artifact in (measures.artifacts if measures else ())
        if measures and (measure := artifact.measure)
    )


def pending(report: Report) -> tuple[Pending, ...]:
    """The files that were not run here, and the targets whose engine is built elsewhere."""
    return (*_unmeasured(report), *_targets(report))


def _unmeasured(report: Report) -> Iterator[Pending]:
    for comparison in report.comparisons:
        if comparison.left_out or comparison.status is Status.MEASURED:
            continue
        engines = [engine for engine in report.engines if engine.file == comparison.file]
        devices = [name for engine in engines for name in verdict.targets_served(engine, report)]
        name = f"{comparison.stage}/{comparison.file}"
        yield Pending(name, ", ".join(devices), comparison.status.value, comparison.reason)


def _targets(report: Report) -> Iterator[Pending]:
    for target in report.targets:
        if target.verdict is not TargetPlan.HERE:
            yield Pending(f"an engine for {target.target}", target.target, target.verdict.value, target.why)


def verdict_of(report: Report, home: Path) -> Verdict:
    """The verdict of a run."""
    return verdict.conclude(report, home).verdict


def exit_of(error: DeployError | None) -> tuple[int, str, str]:
    """The exit code, the problem and the remedy of an error; 0 and empty without one."""
    return (0, "", "") if error is None else (error.exit_code, str(error), error.remedy)
