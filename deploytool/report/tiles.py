"""Summary at the top of a page: four figures, the style of the verdict, and where the run failed."""

from __future__ import annotations

from dataclasses import dataclass

from deploytool.report import rows, timings
from deploytool.report.run_data import RunData
from deploytool.results import verdict
from deploytool.results.faults import ENGINE, GRAPH
from deploytool.results.report import Report
from deploytool.results.verdict import Conclusion
from deploytool.spec import Stage, Verdict, state_text


@dataclass(frozen=True)
class Tone:
    """The style of a verdict: `name` selects the colours, and `mark` is a symbol that needs no colour."""

    name: str
    mark: str


@dataclass(frozen=True)
class Tile:
    """One figure with its name and a line of detail; `alarm` is true if it is beyond what is allowed."""

    name: str
    figure: str
    line: str
    alarm: bool = False


def tone(conclusion: Conclusion) -> Tone:
    """Good for a pass, bad for a failure, open if the fault detection is too weak for a verdict."""
    if conclusion.verdict in (Verdict.FAIL, Verdict.SLOW):
        return Tone("bad", "✕")
    return Tone("good", "✓") if conclusion.passed else Tone("open", "?")


def tiles(run: RunData) -> tuple[Tile, ...]:
    """Checks, speed-up, caught faults and pending artifacts."""
    return (_checks(run.report), _speed_up(run.report), _faults(run.report), _pending(run.report))


def failure_location(run: RunData) -> str:
    """The finding of `blame`, or else the first artifact that fails and the last before it that passes."""
    if run.blame and run.blame.finding:
        return verdict.blamed_line(run.blame.finding)
    passing = ""
    for comparison in run.report.comparisons:
        if any(check.broken for check in comparison.checks):
            return f"first in {rows.label(comparison)}" + (f"; {passing} passes" if passing else "")
        if comparison.checks and comparison.stage is not Stage.TORCHSCRIPT:
            passing = rows.label(comparison)
    return ""


def artifact_sentence(run: RunData) -> str:
    """What the run made, from what, and how it was checked."""
    report, parameters = run.report, run.origin.parameters
    stages = [comparison.stage for comparison in report.comparisons if not comparison.left_out]
    names = {Stage.TORCHSCRIPT: "TorchScript", Stage.EXPORT: "ONNX", Stage.FP16: "FP16 ONNX"}
    artifacts = [name for stage, name in names.items() if stage in stages]
    if report.engines:
        artifacts.append("1 engine" if len(report.engines) == 1 else f"{len(report.engines)} engines")
    text = ", ".join(artifacts[:-1]) + " and " + artifacts[-1] if len(artifacts) > 1 else "".join(artifacts)
    size = f" with {parameters / 1e6:.2f} million parameters" if parameters else ""
    return f"{text} of a model{size}, compared with the model in FP64 on {report.images} golden cases"


def _checks(report: Report) -> Tile:
    checks = [check for comparison in report.comparisons for check in comparison.checks]
    passed = sum(not check.broken for check in checks)
    bars = rows.comparison_bars(report)
    worst = max(bars, key=lambda bar: bar.error / bar.tolerance, default=None)
    line = ""
    if worst:
        name = "closest to its limit" if passed == len(checks) else "worst"
        line = f"{name}: {worst.label}, {rows.times(worst.error)} noise, limit {rows.times(worst.tolerance)}"
    return Tile("Checks passed", f"{passed} of {len(checks)}", line, alarm=passed < len(checks))


def _speed_up(report: Report) -> Tile:
    name = f"Speed-up over {report.baseline.text}"
    failed = {comparison.stage for comparison in report.comparisons for check in comparison.checks if check.broken}
    bars = [bar for bar in timings.bars(report) if bar.label not in failed | {Stage.TORCHSCRIPT}]
    if not bars:
        uneven = any(timings.has_no_verdict(speed.verdict) for speed in report.speeds)
        reason = "no verdict: the machine was too uneven" if uneven else "no artifact that passes was timed"
        return Tile(name, rows.NONE, reason)
    best = max(bars, key=lambda bar: bar.low)
    line = f"{best.low:.2f}–{best.high:.2f}, {best.label} at batch {report.batch}"
    return Tile(name, f"{best.value:.2f}×", line)


def _faults(report: Report) -> Tile:
    name = "Planted faults caught"
    if report.faults is None or not report.faults.families:
        return Tile(name, rows.NONE, "no fault was planted")
    caught, missed = (
        sum(report.faults.count(check, outcome) for check in (GRAPH, ENGINE)) for outcome in ("caught", "missed")
    )
    families = sum(family.planted > 0 for family in report.faults.families)
    line = f"of those that exceed the tolerance, in {families} families"
    return Tile(name, f"{caught} of {caught + missed}", line, alarm=report.faults.weak)


def _pending(report: Report) -> Tile:
    made = [comparison for comparison in report.comparisons if not comparison.left_out]
    unmeasured = [comparison for comparison in made if not comparison.checks]
    if not unmeasured:
        return Tile("Measured here", f"all {len(made)}", "every artifact was run on this machine")
    line = ", ".join(
        f"{rows.label(comparison)}: {state_text(comparison.status, comparison.reason)}" for comparison in unmeasured
    )
    return Tile("Not measured here", str(len(unmeasured)), line)
