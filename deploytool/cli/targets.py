"""`deploytool targets`: lists the target devices, and whether this machine can build an engine for each."""

from __future__ import annotations

from deploytool import targets as target_table
from deploytool.cli import console
from deploytool.cli.command import Outcome
from deploytool.spec import Decision, TargetPlan


def targets() -> Outcome:
    """Lists the target devices, and whether this machine can build an engine for each.

    Example: deploytool targets
    """
    decisions = target_table.plan_engines((*target_table.TARGETS, target_table.THIS))
    columns = ("target", ">capability", "~devices", "verdict", "~why")
    console.table(console.stdout_console(), "Targets", columns, [_row(decision) for decision in decisions])
    here = sum(decision.verdict is TargetPlan.HERE for decision in decisions)
    verdict = f"engines for {here} of {len(decisions)} targets can be built here"
    return Outcome({"targets": decisions}, verdict, next="deploytool export MODEL --target TARGET")


def _row(decision: Decision) -> tuple[str, ...]:
    target = target_table.TARGETS.get(decision.target)
    devices = target.examples if target else "this machine"
    return (decision.target, decision.capability, devices, decision.verdict, decision.why)
