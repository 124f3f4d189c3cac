"""What a run could not show where it was made, and the commands that show it where the device is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from deploytool.report.rows import label
from deploytool.report.run_data import RunData
from deploytool.results import verdict
from deploytool.results.artifact import Kind
from deploytool.spec import GateOutcome, Stage, Status, TargetPlan, spoken


@dataclass(frozen=True)
class Row:
    """One thing that is pending: what, why, where it can be done, and the commands that do it."""

    what: str
    why: str
    where: str
    commands: tuple[str, ...]


def pending(facts: RunData) -> tuple[Row, ...]:
    """Every artifact that was not run, every target that has no engine yet, and what was left out on purpose."""
    report, pack = facts.report, f"deploytool pack {facts.home}"
    bundle = (facts.home / Stage.PACK / Kind.BUNDLE.value).parent
    verify = (pack, f"python -m deploytool.device verify {bundle}", f"python -m deploytool.device bench {bundle}")
    found = []
    for comparison in report.comparisons:
        if comparison.left_out:
            continue  # no machine can run what is not there: a remark says why
        why = spoken(comparison.status, comparison.reason)
        if comparison.status is Status.BUILT_NOT_RUN:
            names = [
                name
                for engine in report.engines
                if engine.file == comparison.file
                for name in _names(facts, comparison.file)
            ]
            found.append(Row(label(comparison), why, ", ".join(names) or "the GPU it is for", verify))
        elif comparison.status is not Status.MEASURED:
            found.append(Row(label(comparison), why, "a machine that has it", ("deploytool doctor",)))
    for target in report.targets:
        if target.verdict is TargetPlan.ON_DEVICE:
            build = (pack, f"python -m deploytool.device build {bundle}")
            found.append(Row(f"an engine for {target.target}", target.why, target.target, build))
        elif target.verdict is TargetPlan.NOT_SERVED:
            found.append(Row(f"an engine for {target.target}", target.why, "another machine", ("deploytool targets",)))
    if (gate := report.gate) and gate.outcome is GateOutcome.OPEN:
        again = f"deploytool bench {facts.home} --min-speedup {gate.min_speedup:g}"
        found.append(Row(f"the speed of {gate.stage}", gate.reason, "the device", (again,)))
    return (*found, *_omitted(facts))


def _omitted(facts: RunData) -> Iterator[Row]:
    """What the run was told to leave out, which this machine can do at any time."""
    if not facts.report.proof:
        yield Row("the checks themselves", "no fault was planted", "this machine", (f"deploytool faults {facts.home}",))
    if not facts.report.rounds:
        yield Row("speed", "not timed", "this machine", (f"deploytool bench {facts.home}",))


def _names(facts: RunData, file: str) -> tuple[str, ...]:
    (engine,) = (each for each in facts.report.engines if each.file == file)
    return verdict.targets_served(engine, facts.report)
