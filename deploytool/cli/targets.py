"""`deploytool targets`: lists the target devices, and whether this machine can build an engine for each."""

from __future__ import annotations

from deploytool import releases
from deploytool import targets as target_table
from deploytool.cli import console
from deploytool.cli.command import Outcome
from deploytool.releases import Release
from deploytool.spec import Decision, TargetPlan


def targets() -> Outcome:
    """Lists the target devices, whether this machine can build an engine for each, and the releases of JetPack.

    Example: deploytool targets
    """
    decisions = target_table.plan_engines((*target_table.TARGETS, target_table.THIS))
    columns = ("target", ">capability", "~devices", "verdict", "~why")
    console.table(console.stdout_console(), "Targets", columns, [_row(decision) for decision in decisions])
    contents = ("JetPack", "Jetson Linux", "TensorRT", "CUDA", "Python", "~targets", "~served")
    listed = [_release_row(release) for release in releases.RELEASES]
    console.table(console.stdout_console(), "Releases of JetPack, for Jetson devices", contents, listed)
    here = sum(decision.verdict is TargetPlan.HERE for decision in decisions)
    verdict = f"engines for {here} of {len(decisions)} targets can be built here"
    document = {"targets": decisions, "releases": releases.RELEASES}
    return Outcome(document, verdict, next="deploytool export MODEL --target TARGET")


def _row(decision: Decision) -> tuple[str, ...]:
    target = target_table.TARGETS.get(decision.target)
    devices = target.examples if target else "this machine"
    return (decision.target, decision.capability, devices, decision.verdict, decision.why)


def _release_row(release: Release) -> tuple[str, ...]:
    names = [name for name, target in target_table.TARGETS.items() if target.capability in release.capabilities]
    served = release.refusal or "graphs, and engines that are built on the device"
    return (release.jetpack, release.l4t, release.tensorrt, release.cuda, release.python, ", ".join(names), served)
