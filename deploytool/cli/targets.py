"""`deploytool targets`: the devices an engine can be for, and what becomes of each on this machine."""

from __future__ import annotations

from deploytool import targets as places
from deploytool.cli import console
from deploytool.cli.command import Outcome
from deploytool.spec import Decision, TargetPlan


def targets() -> Outcome:
    """Lists every target device, and whether its engine can be built here.

    Example: deploytool targets
    """
    decisions = places.plan_engines((*places.TARGETS, places.THIS))
    columns = ("target", ">capability", "~devices", "verdict", "~why")
    console.table(console.stdout_console(), "Targets", columns, [_row(decision) for decision in decisions])
    here = sum(decision.verdict is TargetPlan.HERE for decision in decisions)
    verdict = f"{here} of {len(decisions)} targets can be built for here"
    return Outcome({"targets": decisions}, verdict, next="deploytool export MODEL --target TARGET")


def _row(decision: Decision) -> tuple[str, ...]:
    target = places.TARGETS.get(decision.target)
    devices = target.examples if target else "this machine"
    return (decision.target, decision.capability, devices, decision.verdict, decision.why)
