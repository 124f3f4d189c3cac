"""Writes the checks of a run as JUnit XML: one test case for each check; pending checks are skipped, not passed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as Xml

from deploytool.errors import BadInput
from deploytool.host import files
from deploytool.host.terminal import visible
from deploytool.report import rows
from deploytool.results.faults import CHECK_LABELS, DetectionCount, FaultFamily
from deploytool.results.report import Check, Comparison, Gate, Report
from deploytool.spec import Baseline, GateOutcome, TargetPlan, state_text

_UNCHECKED = "not planted: the unmodified graph fails its checks"


@dataclass(frozen=True)
class Case:
    """One test case; it failed or was skipped if `failed` or `skipped` gives a reason."""

    group: str
    name: str
    failed: str = ""
    skipped: str = ""
    detail: str = ""


def write(path: Path, report: Report) -> None:
    """Writes the checks of a run to a file, atomically; raises BadInput if the file cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.publish(path, text(report).encode())
    except OSError as error:
        raise BadInput(f"cannot write {path}: {error.strerror}", "choose another path with --junit") from error


def text(report: Report) -> str:
    """The XML document, with one test suite for each group of checks."""
    every_case = list(cases(report))
    root = Xml.Element("testsuites", _counts(f"deploytool {report.model}", every_case))
    for group in dict.fromkeys(case.group for case in every_case):
        members = [case for case in every_case if case.group == group]
        suite = Xml.SubElement(root, "testsuite", _counts(group, members))
        for case in members:
            _add_case(suite, case, report.model)
    Xml.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + Xml.tostring(root, encoding="unicode") + "\n"


def cases(report: Report) -> Iterator[Case]:
    """Every check that ran or is pending: comparisons, FP16 range, faults, speed and targets."""
    for comparison in report.comparisons:
        yield from _comparison_cases(comparison)
    if values := report.fp16_range:
        overflow = f"{values.node} outputs {values.largest:.4g}, the FP16 maximum is 65504"
        yield Case("fp16 range", "no value overflows FP16", failed=overflow if values.overflows else "")
    yield from _fault_cases(report)
    yield from _speed_cases(report)
    for target in report.targets:
        if not target.flavour or target.verdict is not TargetPlan.HERE:
            yield Case("targets", target.target, skipped=f"{target.verdict}: {target.why}")


def _comparison_cases(comparison: Comparison) -> Iterator[Case]:
    """One case for each check of a comparison, or one skipped case if the artifact was not run."""
    name = f"{rows.label(comparison)} on {comparison.device}"
    for check in comparison.checks:
        failures = [
            f"{row.figure}: measured {row.measured}, limit {row.limit}" for row in rows.failed_figures_of(check)
        ]
        yield Case("parity", f"{name} against {check.against}", failed="; ".join(failures), detail=_detail(check))
    if not comparison.checks:
        yield Case("parity", name, skipped=state_text(comparison.status, comparison.reason))


def _detail(check: Check) -> str:
    measured, limit = rows.error(check.parity.max_error), rows.error(check.tolerance.max_error)
    return f"largest error: measured {measured}, limit {limit}"


def _fault_cases(report: Report) -> Iterator[Case]:
    """One case for each family of faults in each check; missed faults fail it only if the fault detection is weak."""
    if report.faults is None or not report.faults.families:
        reason = "no fault was planted" if report.faults is None else _UNCHECKED
        yield Case("faults", "planted faults are caught", skipped=reason)
        return
    for family in report.faults.families:
        for check, count in family.by_check.items():
            yield _fault_case(family, check, count, weak=report.faults.weak)


def _fault_case(family: FaultFamily, check: str, count: DetectionCount, *, weak: bool) -> Case:
    name = f"{family.name.replace('_', ' ')} in the {CHECK_LABELS[check]}"
    relevant = count.caught + count.missed
    if not relevant:
        reason = "no fault of this family exceeds the tolerance" if family.planted else "the graph has no place for it"
        return Case("faults", name, skipped=reason)
    failed = f"{count.missed} of {relevant} missed" if count.missed and weak else ""
    return Case("faults", name, failed=failed, detail=f"{count.caught} of {relevant} caught")


def _speed_cases(report: Report) -> Iterator[Case]:
    """The required speed-up, if there is one, and a skipped case for every artifact that was not timed."""
    if report.gate:
        yield _gate_case(report.gate, report.baseline)
    if not report.speeds:
        yield Case("speed", f"artifacts against {report.baseline.text}", skipped="not measured")
    for speed in report.speeds:
        if speed.ratio is None:
            name = f"{speed.stage}/{speed.file} against {report.baseline.text}"
            yield Case("speed", name, skipped=state_text(speed.status, speed.reason))


def _gate_case(gate: Gate, baseline: Baseline) -> Case:
    missed = f"a speed-up of {gate.min_speedup:g}× is not confirmed" if gate.outcome is GateOutcome.MISSED else ""
    name = f"{gate.stage} is at least {gate.min_speedup:g}× as fast as {baseline.text}"
    return Case("speed", name, failed=missed, skipped=gate.reason if gate.outcome is GateOutcome.OPEN else "")


def _counts(name: str, members: list[Case]) -> dict[str, str]:
    """The attributes of a suite: name and number of cases, failures, errors and skipped cases."""
    failures, skipped = sum(bool(case.failed) for case in members), sum(bool(case.skipped) for case in members)
    counts = {"tests": len(members), "failures": failures, "errors": 0, "skipped": skipped}
    return {"name": visible(name), **{attribute: str(count) for attribute, count in counts.items()}}


def _add_case(suite: Xml.Element, case: Case, model: str) -> None:
    attributes = {"classname": visible(f"{model}.{case.group}"), "name": visible(case.name), "time": "0"}
    element = Xml.SubElement(suite, "testcase", attributes)
    if case.failed:
        failure = Xml.SubElement(element, "failure", {"message": visible(case.failed), "type": case.group})
        failure.text = visible(case.detail)
    elif case.skipped:
        Xml.SubElement(element, "skipped", {"message": visible(case.skipped)})
    if case.detail and not case.failed:
        Xml.SubElement(element, "system-out").text = visible(case.detail)
