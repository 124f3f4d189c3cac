"""What a report means: which checks failed, what is still to be measured, and whether a wish was met."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploytool.results import baked_values
from deploytool.results.blame import Finding
from deploytool.results.faults import CASES, SPOKEN, FaultsResult
from deploytool.results.report import (
    COARSEST,
    IMPLAUSIBLE,
    NOISE,
    Check,
    Comparison,
    Engine,
    Equality,
    Fp16Range,
    Gate,
    Parity,
    Report,
    Speed,
    Tolerance,
    Weights,
)
from deploytool.spec import GateOutcome, Precision, SpeedVerdict, Stage, Status, TargetPlan, Verdict, spoken

AGAIN = {
    "fp32_compute": "as converted",
    "fp16_emulation": "in FP16 arithmetic",
}  # by runner: the FP16 graph, run in other ways
_GRAVEST = (NOISE, "bad", "equal", "max_error", "top1", "top5", "snr_db", "cosine")
_FIGURES = {
    "top1": "top-1 agreement",
    "top5": "top-5 agreement",
    "snr_db": "the signal-to-noise ratio",
    "cosine": "the cosine",
}
_CALM = (
    "use trained weights (--weights) and real inputs (--data, --inputs), or rewrite what cancels or divides by little"
)
KEEP = "--keep-fp32 auto"  # the option that mends a model which FP16 is too small or too coarse for
_COARSE = 512.0  # from here on, FP16 has steps of half and more
_BEYOND = 1e38  # stands for infinite values, which JSON does not have


@dataclass(frozen=True)
class NextStep:
    """What to do next, and the command that does it, where one does."""

    what: str
    command: str = ""

    def __str__(self) -> str:
        return f"{self.what}: {self.command}" if self.command else self.what


@dataclass(frozen=True)
class Conclusion:
    """What a run comes to: the verdict, a line for each reason, what is still to be verified, and what to do next."""

    verdict: Verdict
    reasons: tuple[str, ...]
    pending: tuple[str, ...]
    steps: tuple[NextStep, ...]

    @property
    def held(self) -> bool:
        """Whether nothing that was checked failed."""
        return self.verdict in (Verdict.PASS, Verdict.PASS_HERE)

    @property
    def next(self) -> str:
        """What to do next, in one line."""
        return ", or ".join(map(str, self.steps))


def conclude(report: Report, home: Path, found: Finding | None = None) -> Conclusion:
    """What a run in the folder `home` comes to; `found` is what `blame` found in it, if anybody looked."""
    failed, late = failed_lines(report), report.gate
    pending = (*unmeasured_lines(report), *baked_values.doubtful_lines(report.fixed), *omitted_line(report))
    if any(line.wrong for line in report.fixed):
        return Conclusion(Verdict.FAIL, failed, pending, (NextStep(baked_values.MEND),))
    if unstable := noisy(report):  # what else failed follows from it: it was judged by a tolerance that means nothing
        return Conclusion(Verdict.FAIL, failed_comparison_lines(unstable), pending, (NextStep(_CALM),))
    if failed:
        keep = [NextStep(f"the same command with {KEEP}")] if may_keep_fp32_help(report) else []
        if found is None:
            step = NextStep("find the layer with", f"deploytool blame {home}")
        else:
            failed = (*failed, blamed_line(found))
            step = NextStep("make the failure small with", f"deploytool blame {home} --reduce")
        return Conclusion(Verdict.FAIL, failed, pending, (*keep, step))
    if late and late.outcome is GateOutcome.MISSED:
        problem = f"{late.stage} is not surely {late.min_speedup:g}× as fast as eager"
        step = NextStep("see the speed table, or ask for less with --min-speedup")
        return Conclusion(Verdict.SLOW, (problem,), pending, (step,))
    if report.proof and report.proof.weak:
        step = NextStep(f"export again with --cases {home / Stage.FAULTS / CASES}")
        return Conclusion(Verdict.UNPROVEN, (f"The golden cases miss {missed_line(report.proof)}",), pending, (step,))
    if late and late.outcome is GateOutcome.OPEN:
        pending = (*pending, f"the speed of {late.stage}: {late.reason}")
    if any(comparison.stage.precision is Precision.FP16 for comparison in report.comparisons):
        step = NextStep("pack it for a device with", f"deploytool pack {home}")
    else:
        step = NextStep("the same command with --trt, and without --to onnx, goes on to FP16 and an engine")
    return Conclusion(Verdict.PASS_HERE if pending else Verdict.PASS, (), pending, (step,))


def blamed_line(found: Finding) -> str:
    """Where blame says that it began."""
    where = found.module or "the model itself"
    seen = f", seen at {found.layer.op} {found.layer.node}" if found.layer else ", in no one layer"
    return f"{found.stage} strays from {found.against} first in {where}{seen}"


def targets_served(engine: Engine, report: Report) -> tuple[str, ...]:
    """The targets that an engine of the report is for."""
    return tuple(
        target.target
        for target in report.targets
        if (target.verdict, target.flavour) == (TargetPlan.HERE, engine.flavour)
        and (not engine.capabilities or target.capability in engine.capabilities)
    )


def fp16_range(largest: Mapping[str, float], weights: Weights) -> Fp16Range:
    """The reach of a graph whose nodes make values as large as `largest` says; infinite and NaN are the largest."""
    finite = {node: value if value <= _BEYOND else _BEYOND for node, value in largest.items()}
    ordered = sorted(finite, key=lambda node: -finite[node])
    coarse = tuple(node for node in ordered if finite[node] > _COARSE)
    return Fp16Range(ordered[0], finite[ordered[0]], coarse, weights)


def largest_tolerances(report: Report) -> dict[str, float]:
    """The largest error that was allowed to any part in FP32, and in FP16 where the run got there."""
    found: dict[str, float] = {}
    for each in part_tolerances(report).values():
        found |= {name: max(limit.max_error, found.get(name, 0.0)) for name, limit in each.items()}
    return found


def part_tolerances(report: Report) -> dict[str, dict[str, Tolerance]]:
    """What each part that has amounts was allowed in FP32, and in FP16 where the run got there."""
    runners = {comparison.runner: comparison.checks[-1] for comparison in report.comparisons if comparison.checks}
    found: dict[str, dict[str, Tolerance]] = {}
    for name, runner in ((Precision.FP32, "eager"), (Precision.FP16, "fp16_emulation")):
        amounts = [each for each in runners[runner].each if not each.parity.equal] if runner in runners else []
        for each in amounts:
            found.setdefault(each.part, {})[name] = each.tolerance
    return found


def requested_tolerances(report: Report) -> dict[str, float]:
    """The tolerances that were asked for, by precision."""
    found = report.choices.get("tolerance")
    return {str(name): float(str(limit)) for name, limit in found.items()} if isinstance(found, Mapping) else {}


def gate(min_speedup: float | None, speeds: Sequence[Speed], *, engine: bool) -> Gate | None:
    """The speed-up asked for against what ships: the engine where there is one, else the fastest graph.

    It is reached when the lower bound of the interval is, and open where the machine was too uneven to tell or where
    nothing that ships was measured; else it is missed, for it is not sure.
    """
    if min_speedup is None:
        return None
    graphs = [speed for speed in speeds if speed.stage not in (Stage.TORCHSCRIPT, Stage.BUILD)]
    shipped = [speed for speed in speeds if speed.stage is Stage.BUILD] if engine else graphs
    measured = [speed for speed in shipped if speed.low is not None]
    if not measured:
        first = shipped[0]
        return Gate(min_speedup, first.stage, GateOutcome.OPEN, spoken(first.status, first.reason))
    best = max(measured, key=lambda speed: speed.low or 0.0)
    if (best.low or 0.0) < min_speedup:
        return Gate(min_speedup, best.stage, GateOutcome.MISSED)
    if best.verdict is SpeedVerdict.NO_VERDICT:
        return Gate(min_speedup, best.stage, GateOutcome.OPEN, spoken(best.verdict, best.reason))
    return Gate(min_speedup, best.stage, GateOutcome.REACHED)


def failed_lines(report: Report) -> tuple[str, ...]:
    """One line for every check that failed, those first that name a line of the model."""
    lines = [
        *baked_values.wrong_lines(report.fixed),
        *(line for comparison in report.comparisons for line in failed_comparison_lines(comparison)),
    ]
    if report.reach and report.reach.overflows:
        lines.append(f"FP16 overflows: {report.reach.node} makes {report.reach.largest:.3g}, and FP16 ends at 65504")
    return tuple(lines)


def failed_comparison_lines(comparison: Comparison) -> tuple[str, ...]:
    """One line for every check of a comparison that failed: what was judged, against what, and the worst figure."""
    return tuple(
        f"{judged(comparison)} against {check.against}: {reasons(check)}" for check in comparison.checks if check.broken
    )


def judged(comparison: Comparison) -> str:
    """What a comparison judges: its stage, and how the graph is run where one graph is run in several ways."""
    return f"{comparison.stage} {AGAIN[comparison.runner]}" if comparison.runner in AGAIN else str(comparison.stage)


def noisy(report: Report) -> Comparison | None:
    """The comparison that says that the model's own noise is beyond what a tolerance can follow from, if one does."""
    return next(
        (comparison for comparison in report.comparisons if any(NOISE in each.broken for each in comparison.checks)),
        None,
    )


def reasons(check: Check) -> str:
    """One sentence on what of a check is beyond tolerance: the worst figure of the worst part, beside its limit.

    It says in how many other parts figures are beyond theirs, and whether the model's own noise is why.
    """
    failed = [each for each in check.each if each.broken]
    if not failed:
        return ""
    worst, *others = failed
    figure = next((each for each in _GRAVEST if each in worst.broken), worst.broken[0])
    more = f", and {len(others)} other part{'s' * (len(others) > 1)} failed" if others else ""
    said = describe_excess(figure, worst.parity, worst.tolerance, worst.part) + more
    if worst.tolerance.noise <= COARSEST or figure == NOISE:
        return said
    return f"{said}: the model's own arithmetic moves it by {worst.tolerance.noise:.1e} of the largest value"


def describe_excess(figure: str, parity: Parity, tolerance: Tolerance, part: str = "") -> str:
    """A figure beside the limit that it breaks."""
    of = f" of {part}" if part else ""
    equal = parity.equal
    if figure == "equal" and equal:
        beyond = f"{equal.wrong:,} differ beyond ties" if equal.wrong else f"the limit is {tolerance.equal:.2%}"
        return f"{describe_share(equal)} of the elements{of} are equal, {beyond}"
    if figure == NOISE:
        return (
            f"the model's own noise{of} is {tolerance.noise:.1e} of the largest output, the limit is {IMPLAUSIBLE:.1e}"
        )
    if figure == "max_error":
        return f"the largest error{of} is {_error(parity.max_error)}, the limit is {tolerance.max_error:.1e}"
    if figure == "bad":
        return f"{parity.bad:,} values{of} are NaN, infinite or misplaced, none may be"
    value, limit = getattr(parity, figure), getattr(tolerance, figure)
    if figure in ("top1", "top5"):
        return f"{_FIGURES[figure]}{of} is {value:.1%}, the limit is {limit:.0%}"
    digits = 1 if figure == "snr_db" else 9
    unit = " dB" if figure == "snr_db" else ""
    return f"{_FIGURES[figure]}{of} is {value:.{digits}f}{unit}, the limit is {limit:.{digits}f}{unit}"


def describe_share(equal: Equality) -> str:
    """A share of equal elements with its interval."""
    if equal.share == 1:
        return "100 %"
    return f"{100 * equal.share:.4g} % ({100 * equal.low:.4g}–{100 * equal.high:.4g})"


def describe_equality(equal: Equality) -> str:
    """How many elements are equal, and what the others are."""
    if equal.share == 1:
        return "all equal"
    others = {None: "", 0: ", all others are ties"}.get(equal.wrong, f", {equal.wrong} of the others are no ties")
    return f"{describe_share(equal)} equal{others}"


def _error(value: float) -> str:
    return "not finite" if value > _BEYOND else f"{value:.1e}"


def missed_line(proof: FaultsResult) -> str:
    """What a proof says the golden cases miss: how many faults, and the worst."""
    worst = max(proof.missed, key=lambda missed: missed.effect)
    matter = len(proof.missed) + sum(power.caught for family in proof.families for power in family.power.values())
    what = f"{worst.family.replace('_', ' ')} at {worst.place}"
    worst_of = f"{worst.effect:.0f}× the tolerance of the {SPOKEN[worst.check]}"
    return f"{len(proof.missed)} of {matter} faults: {what}, {worst_of}"


def may_keep_fp32_help(report: Report) -> bool:
    """Whether keeping some layers in FP32 may mend what failed: FP16 alone did, and nothing was kept yet."""
    failed = {comparison.stage for comparison in report.comparisons for check in comparison.checks if check.broken}
    failed |= {line.stage for line in report.fixed if line.wrong}
    in_half = all(stage.precision is Precision.FP16 for stage in failed)
    return bool(failed_lines(report)) and in_half and not report.choices.get("keep_fp32")


def omitted_line(report: Report) -> tuple[str, ...]:
    """One line for everything that a run leaves out only if it is told to."""
    speed = () if report.rounds else ("speed: not timed",)
    return speed if report.proof else ("the checks themselves: no fault was planted", *speed)


def unmeasured_lines(report: Report) -> tuple[str, ...]:
    """One line for every artifact that could not be run here."""
    here = (comparison for comparison in report.comparisons if not comparison.left_out)
    return tuple(
        f"{comparison.stage}: {spoken(comparison.status, comparison.reason)}"
        for comparison in here
        if comparison.status is not Status.MEASURED
    )
