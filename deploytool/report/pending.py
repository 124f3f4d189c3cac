"""Lists what a run could not measure on this machine, with the commands that measure it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deploytool.report.rows import label
from deploytool.report.run_data import RunData
from deploytool.results import verdict
from deploytool.results.artifact import Kind
from deploytool.results.report import Report
from deploytool.spec import GateOutcome, Stage, Status, TargetPlan, state_text


@dataclass(frozen=True)
class Row:
    """A pending item: what, why, on which machine it can be done, and the commands for it."""

    what: str
    why: str
    where: str
    commands: tuple[str, ...]


def pending(run: RunData) -> tuple[Row, ...]:
    """All artifacts that were not run, targets without an engine, open speed-ups and omitted measurements."""
    report, home = run.report, run.home
    return (
        *_unmeasured(report, home),
        *_targets(report, home),
        *_open_gate(report, home),
        *_omitted(report, home),
    )


def _unmeasured(report: Report, home: Path) -> Iterator[Row]:
    """The artifacts that were not run; one that could not be made is in the remarks instead."""
    bundle = _bundle(home)
    commands = (
        f"deploytool pack {home}",
        f"python -m deploytool.device verify {bundle}",
        f"python -m deploytool.device bench {bundle}",
    )
    for comparison in report.comparisons:
        if comparison.left_out or comparison.status is Status.MEASURED:
            continue
        reason = state_text(comparison.status, comparison.reason)
        if comparison.status is Status.BUILT_NOT_RUN:
            targets = _engine_targets(report, comparison.file)
            yield Row(label(comparison), reason, ", ".join(targets) or "the GPU that it was built for", commands)
        else:
            yield Row(label(comparison), reason, "a machine that has the backend", ("deploytool doctor",))


def _targets(report: Report, home: Path) -> Iterator[Row]:
    """The targets whose engine must be built on the device, and those that cannot be served from here."""
    build = (f"deploytool pack {home}", f"python -m deploytool.device build {_bundle(home)}")
    for target in report.targets:
        if target.verdict is TargetPlan.ON_DEVICE:
            yield Row(f"an engine for {target.target}", target.why, target.target, build)
        elif target.verdict is TargetPlan.NOT_SERVED:
            yield Row(f"an engine for {target.target}", target.why, "another machine", ("deploytool targets",))


def _open_gate(report: Report, home: Path) -> Iterator[Row]:
    if (gate := report.gate) and gate.outcome is GateOutcome.OPEN:
        command = f"deploytool bench {home} --min-speedup {gate.min_speedup:g}"
        yield Row(f"speed-up of {gate.row}", gate.reason, "the device", (command,))


def _omitted(report: Report, home: Path) -> Iterator[Row]:
    """Measurements that the user left out and this machine can do."""
    if not report.faults:
        yield Row("fault detection", "no fault was planted", "this machine", (f"deploytool faults {home}",))
    if not report.rounds:
        yield Row("speed", "not measured", "this machine", (f"deploytool bench {home}",))


def _bundle(home: Path) -> Path:
    return (home / Stage.PACK / Kind.BUNDLE.value).parent


def _engine_targets(report: Report, file: str) -> tuple[str, ...]:
    return tuple(
        name for engine in report.engines if engine.file == file for name in verdict.targets_served(engine, report)
    )
