"""`deploytool targets`: the devices an engine can be for, and what becomes of each on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from deploytool import targets as places
from deploytool.cli import screen
from deploytool.spec import Decision


def targets(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False) -> None:
    """Lists every target device, and whether its engine can be built here."""
    decisions = places.decide((*places.TARGETS, places.THIS))
    if as_json:
        screen.document(decisions)
        return
    columns = ("target", "capability", "devices", "verdict", "why")
    screen.table(screen.people(as_json=False), "Targets", columns, [_row(decision) for decision in decisions])


def _row(decision: Decision) -> tuple[str, ...]:
    target = places.TARGETS.get(decision.target)
    devices = target.examples if target else "this machine"
    return (decision.target, decision.capability, devices, decision.verdict, decision.why)
