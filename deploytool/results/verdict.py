"""Derives the verdict of a run from its report: failed checks, pending measurements and the next step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deploytool.host import rounded
from deploytool.results import baked_values, measure_lines, runners
from deploytool.results.blame import Finding
from deploytool.results.faults import CASES, CHECK_LABELS, FaultsResult
from deploytool.results.int8 import MOST_CASES
from deploytool.results.measure import Inferiority
from deploytool.results.report import (
    COARSEST,
    IMPLAUSIBLE,
    NOISE,
    Check,
    Comparison,
    Engine,
    Equality,
    Fp16Range,
    Parity,
    Report,
    Tolerance,
    Weights,
)
from deploytool.spec import AUTO, GateOutcome, Precision, SpeedVerdict, Stage, Status, TargetPlan, Verdict, state_text

_BY_SEVERITY = (NOISE, "invalid", "equal", "max_error", "top1", "top5", "snr_db", "cosine")
_FIGURE_NAMES = {
    "top1": "top-1 agreement",
    "top5": "top-5 agreement",
    "snr_db": "the signal-to-noise ratio",
    "cosine": "the cosine similarity",
}
_REDUCE_NOISE = (
    "use trained weights (--weights) and real inputs (--data, --inputs), "
    "or rewrite subtractions of nearly equal values and divisions by small values"
)
KEEP_FP32_OPTION = "--keep-fp32 auto"  # helps if the range or the resolution of FP16 is too small for a model
KEEP_OPTION = "--keep auto"  # helps if a few layers lose most in 8 bits
_COARSE = 512.0  # from here on the FP16 step is 0.5 or more
_LARGEST = 1e38  # replaces infinity, which JSON does not have


@dataclass(frozen=True)
class NextStep:
    """A recommended step, and the command for it if there is one."""

    what: str
    command: str = ""

    def __str__(self) -> str:
        return f"{self.what}: {self.command}" if self.command else self.what


@dataclass(frozen=True)
class Conclusion:
    """The verdict of a run, one line for each reason and each pending measurement, and the next steps."""

    verdict: Verdict
    reasons: tuple[str, ...]
    pending: tuple[str, ...]
    steps: tuple[NextStep, ...]

    @property
    def passed(self) -> bool:
        """Whether every check that ran passed."""
        return self.verdict in (Verdict.PASS, Verdict.PASS_HERE)

    @property
    def next(self) -> str:
        """The next steps in one line."""
        return ", or ".join(map(str, self.steps))


def conclude(report: Report, home: Path, finding: Finding | None = None) -> Conclusion:
    """The conclusion of a run in the folder `home`; `finding` is the result of `blame`, if there is one."""
    failed, gate = failed_lines(report), report.gate
    pending = (*unmeasured_lines(report), *baked_values.doubtful_lines(report.baked_values), *omitted_lines(report))
    undecided = measure_lines.undecided_lines(report.measures)
    noisy = noise_failure(report)
    if noisy and report.selections:  # a baked value may seem wrong for the same reason
        return _selection_conclusion(report, noisy, pending)
    if any(baked.wrong for baked in report.baked_values):
        return Conclusion(Verdict.FAIL, failed, pending, (NextStep(baked_values.REMEDY),))
    if noisy:  # its tolerances mean nothing, so no other failure is reported
        return Conclusion(Verdict.FAIL, failed_comparison_lines(noisy), pending, (NextStep(_REDUCE_NOISE),))
    if failed:
        reasons = (*failed, blamed_line(finding)) if finding else failed
        return Conclusion(Verdict.FAIL, reasons, pending, _steps_after_failure(report, home, blamed=bool(finding)))
    if gate and gate.outcome is GateOutcome.MISSED:
        problem = f"{gate.row}: a speed-up of {gate.min_speedup:g}× over {report.baseline.text} is not confirmed"
        step = NextStep("see the speed table, or lower --min-speedup")
        return Conclusion(Verdict.SLOW, (problem,), pending, (step,))
    if report.faults and report.faults.weak:
        step = NextStep(f"export again with --cases {home / Stage.FAULTS / CASES}")
        return Conclusion(Verdict.UNPROVEN, (f"The golden cases miss {missed_line(report.faults)}",), pending, (step,))
    in_eight_bits = _steps_in_eight_bits(report, Inferiority.NOT_DECIDED)
    if undecided and report.measures and report.measures.stated:
        steps = (NextStep("add images to --data, or raise --max-drop"), *in_eight_bits)
        return Conclusion(Verdict.UNPROVEN, undecided, pending, steps)
    pending = (*pending, *undecided)
    if gate and gate.outcome is GateOutcome.OPEN:
        pending = (*pending, f"speed-up of {gate.row}: {gate.reason}")
    steps = (_step_after_pass(report, home), *in_eight_bits)
    return Conclusion(Verdict.PASS_HERE if pending else Verdict.PASS, (), pending, steps)


def _selection_conclusion(report: Report, noisy: Comparison, pending: tuple[str, ...]) -> Conclusion:
    """The conclusion of a run whose noise is too large since rounding changes what is selected."""
    lines = failed_comparison_lines(noisy)
    cause = f"{lines[0]}: rounding changes what is selected by {' and '.join(report.selections)}"
    steady, unsteady = set[str](), set[str]()
    for part in (part for check in noisy.checks for part in check.part_checks):
        (unsteady if NOISE in part.broken else steady).add(part.part.partition("[")[0])
    before = ",".join(sorted(steady - unsteady)) or "NAME, after the model returns it"
    what = "use trained weights (--weights) and real inputs (--data, --inputs), whose scores lie further apart, "
    step = NextStep(f"{what}or export only what comes before the selection: --output {before}")
    return Conclusion(Verdict.FAIL, (cause, *lines[1:]), pending, (step,))


def _steps_after_failure(report: Report, home: Path, *, blamed: bool) -> tuple[NextStep, ...]:
    """Keeping layers in FP32 if that may help, and `blame`, or its --reduce if the layer is known."""
    keep = [NextStep(f"repeat the command with {KEEP_FP32_OPTION}")] if keep_fp32_may_help(report) else []
    if only_bf16_fails(report):
        return (NextStep(f"deploy the FP16 graph, or leave out --precision {Precision.BF16}"),)
    if not checks_failed(report):
        better = _steps_in_eight_bits(report, Inferiority.WORSE)
        return (*keep, *better, NextStep("see the images on which they differ in the report"))
    if blamed:
        return (*keep, NextStep("reduce the failure to a small model", f"deploytool blame {home} --reduce"))
    return (*keep, NextStep("find the layer", f"deploytool blame {home}"))


def _steps_in_eight_bits(report: Report, judged: Inferiority) -> tuple[NextStep, ...]:
    """What may help graphs in 8 bits that are `judged` so: the search for layers to keep out, and better ranges."""
    cases = max((made.cases for made in (report.int8, report.fp8) if made), default=0)
    if not cases or not measure_lines.stages(report.measures, judged) & {Stage.INT8, Stage.FP8}:
        return ()
    is_auto = report.options.get("keep") in ([AUTO], (AUTO,))
    keep = [] if is_auto else [NextStep(f"repeat the command with {KEEP_OPTION}")]
    more = [NextStep(f"give --calibration more than {cases} pictures")] if cases < MOST_CASES else []
    return (*keep, *more)


def _step_after_pass(report: Report, home: Path) -> NextStep:
    if any(comparison.stage.precision is Precision.FP16 for comparison in report.comparisons):
        return NextStep("pack a bundle for the device", f"deploytool pack {home}")
    return NextStep("repeat the command with --trt and without --to onnx to make the FP16 graph and an engine")


def blamed_line(finding: Finding) -> str:
    """The result of `blame` in one line."""
    module = finding.module or "the model itself"
    layer = f", at {finding.layer.op} {finding.layer.node}" if finding.layer else ", in no single layer"
    return f"{finding.stage} deviates from {finding.against} first in {module}{layer}"


def targets_served(engine: Engine, report: Report) -> tuple[str, ...]:
    """The names of the targets that an engine of the report was built for."""
    return tuple(
        target.target
        for target in report.targets
        if (target.verdict, target.flavour) == (TargetPlan.HERE, engine.flavour)
        and (not engine.capabilities or target.capability in engine.capabilities)
    )


def fp16_range(largest: Mapping[str, float], weights: Weights) -> Fp16Range:
    """The range of a graph, from the largest absolute output of each node; infinity and NaN rank highest."""
    finite = {node: value if value <= _LARGEST else _LARGEST for node, value in largest.items()}
    ordered = sorted(finite, key=lambda node: -finite[node])
    coarse = tuple(node for node in ordered if finite[node] > _COARSE)
    return Fp16Range(ordered[0], finite[ordered[0]], coarse, weights)


def largest_tolerances(report: Report) -> dict[str, float]:
    """By precision, the largest tolerated error of any part; those in 16 bits only if the run has such a graph."""
    largest: dict[str, float] = {}
    for tolerances in part_tolerances(report).values():
        largest |= {name: max(limit.max_error, largest.get(name, 0.0)) for name, limit in tolerances.items()}
    return largest


def part_tolerances(report: Report) -> dict[str, dict[str, Tolerance]]:
    """By part and precision, the tolerance of every part that is not compared for equality."""
    runners = {comparison.runner: comparison.checks[-1] for comparison in report.comparisons if comparison.checks}
    tolerances: dict[str, dict[str, Tolerance]] = {}
    emulations = {Precision.FP16: "fp16_emulation", Precision.BF16: "bf16_emulation"}
    for precision, runner in {Precision.FP32: "eager", **emulations}.items():
        parts = runners[runner].part_checks if runner in runners else ()
        for part in parts:
            if not part.parity.equal:
                tolerances.setdefault(part.part, {})[precision] = part.tolerance
    return tolerances


def requested_tolerances(report: Report) -> dict[str, float]:
    """By precision, the tolerances that the user set."""
    tolerances = report.options.get("tolerance")
    return (
        {str(name): float(str(limit)) for name, limit in tolerances.items()} if isinstance(tolerances, Mapping) else {}
    )


def int8_gain_lines(report: Report) -> tuple[str, ...]:
    """One line for each runtime: how many times as fast its INT8 graph is as the FP32 graph in ONNX Runtime."""
    lines = []
    for speed in report.speeds:
        if speed.gain is None:
            continue
        name, interval = runners.artifact(speed.stage, speed.file, speed.runner), speed.gain
        times = f"{interval.value:.2f}× ({interval.low:.2f}–{interval.high:.2f}) the speed of FP32 in ONNX Runtime"
        if speed.verdict is SpeedVerdict.NO_VERDICT:
            times = f"{SpeedVerdict.NO_VERDICT} on its speed against FP32"
        elif interval.low <= 1:
            times = f"no gain, {times}"
        lines.append(f"{name}: {times}")
    return tuple(lines)


def failed_lines(report: Report) -> tuple[str, ...]:
    """One line for every failed check, and for every artifact that is worse than the source by the user's metric."""
    return (*checks_failed(report), *measure_lines.worse_lines(report.measures))


def checks_failed(report: Report) -> tuple[str, ...]:
    """One line for every failed check; lines of the model that became constants come first."""
    lines = [
        *baked_values.wrong_lines(report.baked_values),
        *(line for comparison in report.comparisons for line in failed_comparison_lines(comparison)),
    ]
    values = report.fp16_range
    if values and values.overflows:
        lines.append(f"FP16 overflows: {values.node} outputs {values.largest:.3g}, the FP16 maximum is 65504")
    return tuple(lines)


def failed_comparison_lines(comparison: Comparison) -> tuple[str, ...]:
    """One line for every failed check of a comparison: artifact, reference, and the worst figure with its limit."""
    label = runners.label(comparison.stage, comparison.runner)
    return tuple(
        f"{label} against {check.against}: {describe_failure(check)}" for check in comparison.checks if check.broken
    )


def noise_failure(report: Report) -> Comparison | None:
    """The comparison that fails because the model's own noise is too large to derive a tolerance from; None if none."""
    return next(
        (comparison for comparison in report.comparisons if any(NOISE in check.broken for check in comparison.checks)),
        None,
    )


def describe_failure(check: Check) -> str:
    """What fails in a check, in one sentence: the worst figure of the worst part, with its limit.

    It adds the number of other failed parts, and the noise of the model's own arithmetic if that is the cause. The text
    is empty if nothing fails.
    """
    failed = [part for part in check.part_checks if part.broken]
    if not failed:
        return ""
    worst, *others = failed
    figure = next((name for name in _BY_SEVERITY if name in worst.broken), worst.broken[0])
    more = f", and {len(others)} other part{'s' * (len(others) > 1)} failed" if others else ""
    text = describe_excess(figure, worst.parity, worst.tolerance, worst.part) + more
    if worst.tolerance.noise <= COARSEST or figure == NOISE:
        return text
    return f"{text}; the model's own noise is {worst.tolerance.noise:.1e} of the largest value"


def describe_excess(figure: str, parity: Parity, tolerance: Tolerance, part: str = "") -> str:
    """A figure beyond tolerance, with its limit."""
    of = f" of {part}" if part else ""
    equal = parity.equal
    if figure == "equal" and equal:
        limit = f"{equal.wrong:,} differ beyond ties" if equal.wrong else f"the limit is {tolerance.equal:.2%}"
        return f"{describe_share(equal)} of the elements{of} are equal, {limit}"
    if figure == NOISE:
        noise, limit = rounded.apart(tolerance.noise, IMPLAUSIBLE, _error, 1)
        return f"the model's own noise{of} is {noise} of the largest output, the limit is {limit}"
    if figure == "max_error":
        error, limit = rounded.apart(parity.max_error, tolerance.max_error, _error, 1)
        return f"the largest error{of} is {error}, the limit is {limit}"
    if figure == "invalid":
        return f"{parity.invalid:,} values{of} are invalid (NaN, infinite or a misplaced mask value), the limit is 0"
    value, threshold = getattr(parity, figure), getattr(tolerance, figure)
    text, digits = {"snr_db": (_decibels, 1), "cosine": (_plain, 9)}.get(figure, (_percent, 1))
    measured, least = rounded.apart(value, threshold, text, digits)
    return f"{_FIGURE_NAMES[figure]}{of} is {measured}, the limit is {least}"


def describe_share(equal: Equality) -> str:
    """The share of equal elements in percent, with its 95 % interval."""
    if equal.share == 1:
        return "100 %"
    return f"{100 * equal.share:.4g} % ({100 * equal.low:.4g}–{100 * equal.high:.4g})"


def describe_equality(equal: Equality) -> str:
    """The share of equal elements, and how many of the others are ties."""
    if equal.share == 1:
        return "all equal"
    others = {None: "", 0: ", all others are ties"}.get(equal.wrong, f", {equal.wrong} of the others are not ties")
    return f"{describe_share(equal)} equal{others}"


def _error(value: float, digits: int) -> str:
    return "not finite" if value > _LARGEST else f"{value:.{digits}e}"


def _decibels(value: float, digits: int) -> str:
    return f"{value:.{digits}f} dB"


def _plain(value: float, digits: int) -> str:
    return f"{value:.{digits}f}"


def _percent(value: float, digits: int) -> str:
    return f"{value:.{digits}%}"


def missed_line(faults: FaultsResult) -> str:
    """How many planted faults the golden cases miss, and the worst of them."""
    worst = max(faults.missed, key=lambda missed: missed.effect)
    caught = sum(count.caught for family in faults.families for count in family.by_check.values())
    fault = f"{worst.family.replace('_', ' ')} at {worst.place}"
    effect = f"{worst.effect:.0f}× the tolerance of the {CHECK_LABELS[worst.check]}"
    return f"{len(faults.missed)} of {len(faults.missed) + caught} faults: {fault}, {effect}"


def keep_fp32_may_help(report: Report) -> bool:
    """Whether keeping layers in FP32 may help: only FP16 artifacts fail, and the option was not used."""
    only_fp16 = all(stage.precision is Precision.FP16 for stage in _failed_stages(report))
    return bool(failed_lines(report)) and only_fp16 and not report.options.get("keep_fp32")


def only_bf16_fails(report: Report) -> bool:
    """Whether the BF16 graph fails and no other artifact does: `blame` looks at the others alone."""
    overflows = bool(report.fp16_range and report.fp16_range.overflows)
    return _failed_stages(report) == {Stage.BF16} and not overflows


def _failed_stages(report: Report) -> set[Stage]:
    """The stages with a failed check, a wrong value that became a constant, or an artifact worse than the source."""
    failed = {comparison.stage for comparison in report.comparisons for check in comparison.checks if check.broken}
    failed |= {baked.stage for baked in report.baked_values if baked.wrong}
    return failed | measure_lines.stages(report.measures, Inferiority.WORSE)


def omitted_lines(report: Report) -> tuple[str, ...]:
    """One line for each optional measurement that the user left out."""
    speed = () if report.rounds else ("speed: not measured",)
    return speed if report.faults else ("fault detection: no fault was planted", *speed)


def unmeasured_lines(report: Report) -> tuple[str, ...]:
    """One line for every artifact that was not run on this machine."""
    return tuple(
        f"{comparison.stage}: {state_text(comparison.status, comparison.reason)}"
        for comparison in report.comparisons
        if not comparison.left_out and comparison.status is not Status.MEASURED
    )
