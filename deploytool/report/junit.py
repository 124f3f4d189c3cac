"""A run as JUnit XML, so that CI shows every check: one test case each, and what is pending is skipped, not passed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as Xml

from deploytool.errors import BadInput
from deploytool.host import files
from deploytool.host.terminal import visible
from deploytool.report import rows
from deploytool.results.faults import FaultFamily
from deploytool.results.report import Check, Gate, Report
from deploytool.spec import GateOutcome, TargetPlan, spoken


@dataclass(frozen=True)
class Case:
    """One check by group and name; it failed, or was skipped, if there is a line that says why."""

    group: str
    name: str
    failed: str = ""
    skipped: str = ""
    detail: str = ""


def write(path: Path, report: Report) -> None:
    """Writes the checks of a run to a file, as a whole or not at all; raises BadInput where that cannot be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.publish(path, text(report).encode())
    except OSError as error:
        raise BadInput(f"cannot write {path}: {error.strerror}", "choose another place with --junit") from error


def text(report: Report) -> str:
    """The document: one suite for each group of checks."""
    every = list(cases(report))
    root = Xml.Element("testsuites", _counted(f"deploytool {report.model}", every))
    for group in dict.fromkeys(case.group for case in every):
        inside = [case for case in every if case.group == group]
        suite = Xml.SubElement(root, "testsuite", _counted(group, inside))
        for case in inside:
            _case(suite, case, report.model)
    Xml.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + Xml.tostring(root, encoding="unicode") + "\n"


def cases(report: Report) -> Iterator[Case]:
    """Every check that was made or is pending: parity, range, proof, speed, and targets."""
    for comparison in report.comparisons:
        name = f"{rows.label(comparison)} on {comparison.device}"
        for check in comparison.checks:
            each = [f"{one.figure} {one.found}, tolerated {one.allowed}" for one in rows.figures(check)]
            yield Case("parity", f"{name} against {check.against}", failed="; ".join(each), detail=_figures(check))
        if not comparison.checks:
            yield Case("parity", name, skipped=spoken(comparison.status, comparison.reason))
    if report.reach:
        overflow = f"{report.reach.node} makes {report.reach.largest:.4g}, and FP16 ends at 65504"
        yield Case("range", "FP16 holds every value", failed=overflow if report.reach.overflows else "")
    yield from _proof(report)
    yield from _speed(report)
    for target in report.targets:
        if not target.flavour or target.verdict is not TargetPlan.HERE:
            yield Case("targets", target.target, skipped=f"{target.verdict}: {target.why}")


def _figures(check: Check) -> str:
    return f"largest error {rows.error(check.parity.max_error)}, tolerated {rows.error(check.tolerance.max_error)}"


def _proof(report: Report) -> Iterator[Case]:
    """One case for each family of faults in each check; a miss fails it where the proof as a whole is too weak."""
    if report.proof is None:
        yield Case("proof", "faults are caught", skipped="none was planted")
        return
    if not report.proof.families:
        yield Case("proof", "faults are caught", skipped="none was planted, for the graph as it is fails its checks")
    for family in report.proof.families:
        for check, power in family.power.items():
            name = f"{family.name.replace('_', ' ')} in the {check} check"
            matter = power.caught + power.missed
            if not matter:
                yield Case("proof", name, skipped=_idle(family))
                continue
            lost = f"{power.missed} of {matter} missed" if power.missed and report.proof.weak else ""
            yield Case("proof", name, failed=lost, detail=f"{power.caught} of {matter} caught")


def _idle(family: FaultFamily) -> str:
    return "no fault of this family matters here" if family.planted else "nothing to plant it in"


def _speed(report: Report) -> Iterator[Case]:
    """The gate, where one was asked for; and what was to be timed and could not be."""
    if report.gate:
        yield _gate(report.gate)
    if not report.speeds:
        yield Case("speed", "artifacts beside eager", skipped="not timed")
    for speed in report.speeds:
        if speed.ratio is None:
            yield Case("speed", f"{speed.stage}/{speed.file} beside eager", skipped=spoken(speed.status, speed.reason))


def _gate(gate: Gate) -> Case:
    late = f"it is not surely {gate.min_speedup:g}× as fast" if gate.outcome is GateOutcome.MISSED else ""
    name = f"{gate.stage} is {gate.min_speedup:g}× as fast as eager"
    return Case("speed", name, failed=late, skipped=gate.reason if gate.outcome is GateOutcome.OPEN else "")


def _counted(name: str, every: list[Case]) -> dict[str, str]:
    failures, skipped = (sum(bool(getattr(case, what)) for case in every) for what in ("failed", "skipped"))
    counts = {"tests": len(every), "failures": failures, "errors": 0, "skipped": skipped}
    return {"name": visible(name), **{what: str(count) for what, count in counts.items()}}


def _case(suite: Xml.Element, case: Case, model: str) -> None:
    place = {"classname": visible(f"{model}.{case.group}"), "name": visible(case.name), "time": "0"}
    element = Xml.SubElement(suite, "testcase", place)
    if case.failed:
        Xml.SubElement(element, "failure", {"message": visible(case.failed), "type": case.group}).text = visible(
            case.detail
        )
    elif case.skipped:
        Xml.SubElement(element, "skipped", {"message": visible(case.skipped)})
    if case.detail and not case.failed:
        Xml.SubElement(element, "system-out").text = visible(case.detail)
