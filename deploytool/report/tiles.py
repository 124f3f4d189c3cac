"""A run at a glance: four figures under the verdict, and the sign that goes with it."""

from __future__ import annotations

from dataclasses import dataclass

from deploytool.report import rows, timings
from deploytool.report.run_data import RunData
from deploytool.results import verdict
from deploytool.results.faults import ENGINE, GRAPH
from deploytool.results.report import Report
from deploytool.results.verdict import Conclusion
from deploytool.spec import Stage, Verdict, spoken


@dataclass(frozen=True)
class Tone:
    """How a verdict looks: `name` for colours, `mark` for those who see none."""

    name: str
    mark: str


@dataclass(frozen=True)
class Tile:
    """One figure: what it is of, itself, and a line beside it; `alarm` where it is beyond what is allowed."""

    name: str
    figure: str
    line: str
    alarm: bool = False


def tone(closing: Conclusion) -> Tone:
    """Good, bad or open: what is not proven is not good."""
    if closing.verdict in (Verdict.FAIL, Verdict.SLOW):
        return Tone("bad", "✕")
    return Tone("good", "✓") if closing.held else Tone("open", "?")


def tiles(facts: RunData) -> tuple[Tile, ...]:
    """Right, fast, proved, and pending."""
    return (_right(facts.report), _fast(facts.report), _proved(facts.report), _pending(facts))


def where(facts: RunData) -> str:
    """Where it failed: what blame found, or else the first artifact that strays and the last that does not."""
    if facts.blame and facts.blame.finding:
        return verdict.blamed_line(facts.blame.finding)
    before = ""
    for comparison in facts.report.comparisons:
        if any(check.broken for check in comparison.checks):
            return f"first in {rows.label(comparison)}" + (f"; {before} holds" if before else "")
        if comparison.checks and comparison.stage is not Stage.TORCHSCRIPT:
            before = rows.label(comparison)
    return ""


def built(facts: RunData) -> str:
    """What was made of what, in one sentence."""
    report, origin = facts.report, facts.origin
    stages = [comparison.stage for comparison in report.comparisons if not comparison.left_out]
    kinds = {Stage.TORCHSCRIPT: "TorchScript", Stage.EXPORT: "ONNX", Stage.FP16: "FP16 ONNX"}
    made = [kind for stage, kind in kinds.items() if stage in stages]
    if report.engines:
        made.append("1 engine" if len(report.engines) == 1 else f"{len(report.engines)} engines")
    what = ", ".join(made[:-1]) + " and " + made[-1] if len(made) > 1 else "".join(made)
    size = f" of {origin.parameters / 1e6:.2f} million parameters" if origin.parameters else ""
    return f"{what} of a model{size}, held against it in FP64 on {report.images} golden images"


def _right(report: Report) -> Tile:
    every = [check for comparison in report.comparisons for check in comparison.checks]
    held = sum(not check.broken for check in every)
    links = rows.links(report)
    worst = max(links, key=lambda link: link.truth / link.allowed, default=None)
    name = "closest" if held == len(every) else "worst"
    line = (
        f"{name}: {worst.label}, {rows.times(worst.truth)} noise, {rows.times(worst.allowed)} tolerated"
        if worst
        else ""
    )
    return Tile("Checks that hold", f"{held} of {len(every)}", line, alarm=held < len(every))


def _fast(report: Report) -> Tile:
    wrong = {comparison.stage for comparison in report.comparisons for check in comparison.checks if check.broken}
    bars = [bar for bar in timings.bars(report) if bar.label not in wrong | {Stage.TORCHSCRIPT}]
    if not bars:
        uneven = any(timings.refused(speed.verdict) for speed in report.speeds)
        why = "no verdict: the machine was too uneven" if uneven else "nothing that holds was timed"
        return Tile("Speed-up against eager", rows.NONE, why)
    best = max(bars, key=lambda bar: bar.low)
    figure = f"{best.value:.2f}×"
    return Tile(
        "Speed-up against eager", figure, f"{best.low:.2f}–{best.high:.2f}, {best.label} at batch {report.batch}"
    )


def _proved(report: Report) -> Tile:
    if report.proof is None or not report.proof.families:
        return Tile("Planted faults caught", rows.NONE, "none was planted")
    caught, missed = (
        sum(report.proof.count(check, what) for check in (GRAPH, ENGINE)) for what in ("caught", "missed")
    )
    families = sum(family.planted > 0 for family in report.proof.families)
    line = f"of {families} families, as far as they matter"
    return Tile("Planted faults caught", f"{caught} of {caught + missed}", line, alarm=report.proof.weak)


def _pending(facts: RunData) -> Tile:
    waiting = [
        comparison for comparison in facts.report.comparisons if not comparison.checks and not comparison.left_out
    ]
    if not waiting:
        return Tile(
            "Run here",
            f"all {sum(not comparison.left_out for comparison in facts.report.comparisons)}",
            "every artifact was run on this machine",
        )
    line = ", ".join(
        f"{rows.label(comparison)}: {spoken(comparison.status, comparison.reason)}" for comparison in waiting
    )
    return Tile("Pending on a device", str(len(waiting)), line)
