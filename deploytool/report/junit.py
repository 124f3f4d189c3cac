"""Writes the checks of a run, or the cells of a sweep, as JUnit XML; what is pending is skipped, not passed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as Xml

from deploytool.errors import BadInput
from deploytool.host import files, rounded
from deploytool.host.terminal import visible
from deploytool.report import rows
from deploytool.results import measure_lines
from deploytool.results.faults import CHECK_LABELS, DetectionCount, FaultFamily
from deploytool.results.measure import Inferiority, Measures
from deploytool.results.report import Baseline, Check, Comparison, Gate, Report
from deploytool.results.sweep import CellResult, CellState, Sweep
from deploytool.spec import GateOutcome, TargetPlan, state_text

_UNCHECKED = "not planted: the unmodified graph fails its checks"


@dataclass(frozen=True)
class Case:
    """One test case of a duration; it failed, had an error or was skipped if the field of that name gives a reason.

    A line break in `detail` starts a new line, so that foreign text in it must have none.
    """

    group: str
    name: str
    failed: str = ""
    skipped: str = ""
    detail: str = ""
    error: str = ""
    seconds: float = 0.0


def write(path: Path, report: Report) -> None:
    """Writes the checks of a run to a file, atomically; raises BadInput if the file cannot be written."""
    _publish(path, text(report))


def write_sweep(path: Path, sweep: Sweep) -> None:
    """Writes the cells of a sweep to a file, atomically; raises BadInput if the file cannot be written."""
    _publish(path, sweep_text(sweep))


def _publish(path: Path, document: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.publish(path, document.encode())
    except OSError as error:
        raise BadInput(f"cannot write {path}: {error.strerror}", "choose another path with --junit") from error


def text(report: Report) -> str:
    """The XML document, with one test suite for each group of checks."""
    return _document(report.model, list(cases(report)))


def sweep_text(sweep: Sweep) -> str:
    """The XML document of a sweep, with one test suite for each model and one test case for each cell."""
    return _document("sweep", [_cell_case(result) for result in sweep.cells])


def _document(subject: str, every_case: Sequence[Case]) -> str:
    groups: dict[str, list[Case]] = {}
    for case in every_case:
        groups.setdefault(case.group, []).append(case)
    root = Xml.Element("testsuites", _counts(f"deploytool {subject}", every_case))
    for group, members in groups.items():
        suite = Xml.SubElement(root, "testsuite", _counts(group, members))
        for case in members:
            _add_case(suite, case, subject)
    Xml.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + Xml.tostring(root, encoding="unicode") + "\n"


def cases(report: Report) -> Iterator[Case]:
    """Every check that ran or is pending: comparisons, FP16 range, faults, the metric, speed and targets."""
    for comparison in report.comparisons:
        yield from _comparison_cases(comparison)
    if values := report.fp16_range:
        overflow = f"{values.node} outputs {values.largest:.4g}, the FP16 maximum is 65504"
        yield Case("fp16 range", "no value overflows FP16", failed=overflow if values.overflows else "")
    yield from _fault_cases(report)
    yield from _metric_cases(report.measures)
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
    measured, limit = rounded.apart(check.parity.max_error, check.tolerance.max_error, rows.error, 1)
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


def _metric_cases(measures: Measures | None) -> Iterator[Case]:
    """One case for each artifact that was measured; an open one is skipped, and fails if a margin was asked for."""
    for artifact in measures.artifacts if measures else ():
        if measures is None or artifact.measure is None:
            yield Case("metric", rows.label(artifact), skipped=state_text(artifact.status, artifact.reason))
            continue
        text = measure_lines.describe(artifact.measure, measures.margin)
        verdict = artifact.measure.verdict
        is_open = verdict is Inferiority.NOT_DECIDED
        failed = text if verdict is Inferiority.WORSE or (is_open and measures.stated) else ""
        name = f"{rows.label(artifact)} by {measures.name}"
        yield Case("metric", name, failed=failed, skipped=text if is_open and not failed else "", detail=text)


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
    name = f"{gate.row} is at least {gate.min_speedup:g}× as fast as {baseline.text}"
    return Case("speed", name, failed=missed, skipped=gate.reason if gate.outcome is GateOutcome.OPEN else "")


def _cell_case(result: CellResult) -> Case:
    """The case of a cell: a verdict that is no pass is a failure, no verdict an error, and no result is skipped."""
    name, group = result.cell.name, result.cell.model
    detail = "\n".join(visible(f"pending on {each.device}: {each.what}, {each.status}") for each in result.pending)
    if result.state is CellState.PENDING:
        return Case(group, name, skipped=result.problem or "not made yet")
    if result.state is CellState.PASSED:
        return Case(group, name, detail=detail, seconds=result.seconds)
    reason = result.problem or str(result.verdict or result.state)
    remedy = "\n".join(filter(None, (visible(result.remedy), detail)))
    if result.state is CellState.FAILED:
        return Case(group, name, failed=reason, detail=remedy, seconds=result.seconds)
    return Case(group, name, error=reason, detail=remedy, seconds=result.seconds)


def _counts(name: str, members: Sequence[Case]) -> dict[str, str]:
    """The attributes of a suite: name and number of cases, failures, errors and skipped cases."""
    failures, skipped = sum(bool(case.failed) for case in members), sum(bool(case.skipped) for case in members)
    errors = sum(bool(case.error) for case in members)
    counts = {"tests": len(members), "failures": failures, "errors": errors, "skipped": skipped}
    return {"name": visible(name), **{attribute: str(count) for attribute, count in counts.items()}}


def _add_case(suite: Xml.Element, case: Case, subject: str) -> None:
    attributes = {"classname": visible(f"{subject}.{case.group}"), "name": visible(case.name)}
    element = Xml.SubElement(suite, "testcase", {**attributes, "time": f"{case.seconds:.6g}"})
    detail = "\n".join(visible(line) for line in case.detail.split("\n"))
    for tag, reason in (("failure", case.failed), ("error", case.error)):
        if reason:
            failure = Xml.SubElement(element, tag, {"message": visible(reason), "type": visible(case.group)})
            failure.text = detail
            return
    if case.skipped:
        Xml.SubElement(element, "skipped", {"message": visible(case.skipped)})
    if case.detail:
        Xml.SubElement(element, "system-out").text = detail
