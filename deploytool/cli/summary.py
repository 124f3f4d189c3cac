"""Prints the results of a run in the terminal: tables of comparisons and speeds, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from deploytool.bundle import int8_choice
from deploytool.cli import console as cli_console
from deploytool.cli.command import Outcome
from deploytool.errors import DeployError
from deploytool.host import disk, side_files
from deploytool.results import blame as results_blame
from deploytool.results import measure_lines, runners, speed_gate, verdict
from deploytool.results.artifact import PAGE, VARIANTS, Kind
from deploytool.results.faults import CHECK_LABELS, FaultsResult
from deploytool.results.measure import MeasuredArtifact, Measures
from deploytool.results.report import Accuracy, Check, Comparison, Engine, Report, Speed
from deploytool.results.verdict import Conclusion
from deploytool.spec import Precision, SpeedVerdict, Stage, TargetPlan, state_text
from deploytool.targets import FLAVOURS, precision_problem

_NONE = "–"


def show(console: Console, report: Report, home: Path) -> None:
    """Prints comparisons, speeds, targets, the verdict and the path of the page."""
    title = f"{report.model}: largest error relative to the largest output, {report.images} golden cases"
    columns = ("artifact", ">size", ">previous", ">FP64", ">noise", ">top-1", "status")
    cli_console.table(console, title, columns, [_comparison_row(each, home) for each in report.comparisons])
    for line in [*_tolerance_lines(report), *_equality_lines(report)]:
        cli_console.say(console, line)
    if report.data and any(comparison.agreement for comparison in report.comparisons):
        _show_agreement(console, report)
    if report.measures:
        _show_measures(console, report.measures)
    if report.speeds:
        title = f"Speed at batch {report.batch} on {report.device}, {report.rounds} interleaved rounds"
        speed_columns = ("artifact", ">latency", f">{report.baseline}", "speed-up (95 % interval)")
        cli_console.table(console, title, speed_columns, [_speed_row(speed) for speed in report.speeds])
    made = (*_fp16_lines(report), *_int8_lines(report), *_fp8_lines(report))
    findings = (*_no_verdict_lines(report), *_gate_lines(report), *made, *_fault_lines(report), *report.remarks)
    for line in (*findings, *_engine_lines(report, home), *_verdict_lines(conclusion(report, home), home)):
        cli_console.say(console, line)


def _show_agreement(console: Console, report: Report) -> None:
    """Prints how often each artifact has the class of the source on the user's images, and its accuracy."""
    title = f"Agreement with the source on {report.images} images of {report.data}"
    columns = ("artifact", ">same class", "95 % interval", "flips", "accuracy")
    rows = []
    for comparison in report.comparisons:
        if (agreement := comparison.agreement) is not None:
            flips = str(len(agreement.flips))
            if agreement.flips:
                flips += f" (margin ≤ {agreement.flips[0].margin:.0e})"
            interval = f"{agreement.low:.1%}–{agreement.high:.1%}"
            name = f"{comparison.stage}/{comparison.file}"
            rows.append((name, f"{agreement.top1:.1%}", interval, flips, _accuracy(comparison.accuracy)))
    cli_console.table(console, title, columns, rows)


def _show_measures(console: Console, measures: Measures) -> None:
    """Prints the user's metric of every artifact, with the verdict on it."""
    columns = ("artifact", f">{measures.name}", "difference (95 % interval)", "verdict")
    table = [(_name(row.artifact), row.value, row.difference, row.verdict) for row in measure_lines.rows(measures)]
    cli_console.table(console, measure_lines.title(measures), columns, table)


def _name(artifact: Comparison | MeasuredArtifact) -> str:
    """The file of an artifact; for a further run of it, how it is run."""
    how = runners.LABELS.get(artifact.runner, "")
    if artifact.file in VARIANTS:
        return runners.artifact(artifact.stage, artifact.file, artifact.runner)
    return f"  {how}" if runners.is_further(artifact.runner) else f"{artifact.stage}/{artifact.file} {how}".strip()


def _accuracy(accuracy: Accuracy | None) -> str:
    return f"{accuracy.artifact:.1%} (p {accuracy.p_value:.2g})" if accuracy else _NONE


def _comparison_row(comparison: Comparison, home: Path) -> tuple[str, ...]:
    """Artifact, size, error against the previous artifact and against FP64, multiple of the noise, top-1, status."""
    name, size = _name(comparison), _size(comparison, home)
    if not comparison.checks:
        return (name, size, _NONE, _NONE, _NONE, _NONE, state_text(comparison.status, comparison.reason))
    size = "" if runners.is_further(comparison.runner) else size
    previous = _error(comparison.checks[0]) if len(comparison.checks) > 1 else _NONE
    last = comparison.checks[-1]
    result = "FAIL" if any(check.broken for check in comparison.checks) else "pass"
    device = "" if comparison.device == "cpu" else f" on {comparison.device}"
    top1 = _NONE if last.parity.top1 is None else f"{last.parity.top1:.0%}"
    noise = f"{last.parity.max_error / last.tolerance.noise:.1f}×" if last.tolerance.noise else _NONE
    return (name, size, previous, _error(last), noise, top1, f"{comparison.status}{device}: {result}")


def _size(comparison: Comparison, home: Path) -> str:
    file = home / comparison.stage / comparison.file
    if file.is_file():
        return disk.size(side_files.total_size(file))
    return _NONE if comparison.left_out else "missing"


def _tolerance_lines(report: Report) -> list[str]:
    """The tolerances and the noise that they are derived from, by part of the output; and the smallest class margin."""
    tolerances = verdict.part_tolerances(report)
    lines = []
    for part, by_precision in tolerances.items():
        suffix = f" of {part}" if len(tolerances) > 1 else ""
        limits = [
            f"{name.upper()} {each.max_error:.1e} (noise {each.noise:.1e})" for name, each in by_precision.items()
        ]
        lines.append(f"Tolerance{suffix}: {', '.join(limits)}")
    margin = f"smallest class margin {report.margin:.1e}"
    return [f"{lines[0]}; {margin}"] if len(lines) == 1 else [*lines, margin[0].upper() + margin[1:]]


def _equality_lines(report: Report) -> list[str]:
    """The share of equal elements of the parts that are compared for equality and are not all equal."""
    lines = []
    for comparison in report.comparisons:
        for part in comparison.checks[-1].part_checks if comparison.checks else ():
            if part.parity.equal and part.parity.equal.share < 1:
                label = runners.label(comparison.stage, comparison.runner)
                lines.append(f"{label}: {verdict.describe_equality(part.parity.equal)} in {part.part}")
    return list(dict.fromkeys(lines))


def _error(check: Check) -> str:
    """The error of the worst part; the share of equal elements if all parts are compared for equality."""
    equal = check.parity.equal
    if equal and all(part.parity.equal for part in check.part_checks):
        return "all equal" if equal.share == 1 else f"{100 * equal.share:.4g} % equal"
    return f"{check.parity.max_error:.1e}"


def _speed_row(speed: Speed) -> tuple[str, ...]:
    name = runners.artifact(speed.stage, speed.file, speed.runner)
    if speed.ratio is None:
        return (name, _NONE, _NONE, state_text(speed.status, speed.reason))
    return (name, f"{speed.latency_ms:.2f} ms", f"{speed.baseline_ms:.2f} ms", _speed_up(speed))


def _speed_up(speed: Speed) -> str:
    """The speed-up with its interval, as far as the verdict allows."""
    interval = f"{speed.low:.2f}–{speed.high:.2f}"
    if speed.verdict is SpeedVerdict.NO_VERDICT:
        return f"{speed.verdict}, see below"
    if speed.verdict is SpeedVerdict.NEITHER:
        return f"{interval}: {speed.verdict}"
    return f"{speed.ratio:.2f}× ({interval})"


def _no_verdict_lines(report: Report) -> list[str]:
    """Each reason for a speed without a verdict, once."""
    reasons = dict.fromkeys(speed.reason for speed in report.speeds if speed.verdict is SpeedVerdict.NO_VERDICT)
    return [f"Speed: {state_text(SpeedVerdict.NO_VERDICT, reason)}" for reason in reasons]


def _gate_lines(report: Report) -> list[str]:
    """The outcome of the required speed-up, with the rows that were judged."""
    gate = report.gate
    return [speed_gate.line(gate.min_speedup, gate.outcome, gate.reason, gate.judged or (gate.row,))] if gate else []


def _fp16_lines(report: Report) -> list[str]:
    """The range of values of the FP16 graph, and the weights that FP16 cannot represent."""
    if (values := report.fp16_range) is None:
        return []
    lines = [f"FP16 range: largest value {values.largest:.4g} of 65504, output of {values.node}"]
    if values.coarse:
        lines.append(f"  above 512, where the FP16 step is 0.5 or more: {', '.join(values.coarse[:5])}")
    weights = values.weights
    counts = (
        f"{weights.flushed:,} of {weights.total:,} weights are flushed to zero, {weights.subnormal:,} are subnormal"
    )
    return [*lines, f"  {counts}"]


def _fp8_lines(report: Report) -> list[str]:
    """How the FP8 graph was made."""
    return [f"FP8, {report.fp8.summary}"] if report.fp8 else []


def _int8_lines(report: Report) -> list[str]:
    """How each INT8 graph was made, how fast it is, and which runtime would get it from a bundle."""
    made = [f"{graph.file}, {graph.summary}" for graph in report.int8.graphs] if report.int8 else []
    packed = (f"in a bundle {line}" for line in int8_choice.lines(report))
    return [*made, *verdict.int8_gain_lines(report), *packed]


def _fault_lines(report: Report) -> list[str]:
    return fault_lines(report.faults) if report.faults else []


def fault_lines(faults: FaultsResult) -> list[str]:
    """How many planted faults the checks caught."""
    if not faults.families:
        return ["Faults: none planted, the unmodified graph fails its checks"]
    planted = sum(family.planted for family in faults.families)
    equivalent = sum(family.equivalent for family in faults.families)
    counts = []
    for check, label in CHECK_LABELS.items():
        caught, missed = faults.count(check, "caught"), faults.count(check, "missed")
        if caught + missed:
            counts.append(f"the {label} caught {caught} of {caught + missed}")
    no_effect = f"; {equivalent} have no effect" if equivalent else ""
    return [f"Faults: {planted} planted; of those beyond the tolerance {' and '.join(counts)}{no_effect}"]


def _engine_lines(report: Report, home: Path) -> list[str]:
    """The engines with their targets, and the targets without an engine."""
    lines = [f"{home / Stage.BUILD / engine.file}: {_engine(engine, report)}" for engine in report.engines]
    for target in report.targets:
        if target.verdict is TargetPlan.ON_DEVICE:
            graphs = [home / Stage.FP16 / Kind.GRAPH.value]
            if report.fp8 and precision_problem(target.capability, Precision.FP8) is None:
                graphs.append(home / Stage.FP8 / Kind.FP8_GRAPH.value)
            lines.append(f"{target.target}: build on the device, from {' and '.join(map(str, graphs))}")
        elif target.verdict is TargetPlan.NOT_SERVED:
            lines.append(f"{target.target}: not served ({target.why})")
    return lines


def _engine(engine: Engine, report: Report) -> str:
    capabilities = ", ".join(engine.capabilities) or FLAVOURS[engine.flavour].coverage
    names = verdict.targets_served(engine, report)
    return f"{engine.flavour} {engine.version} for {' '.join(names)} (compute capability {capabilities})"


def conclusion(report: Report, home: Path) -> Conclusion:
    """The conclusion of a run, with the finding of `blame` if there is one."""
    blame = results_blame.read(home)
    return verdict.conclude(report, home, blame.finding if blame else None)


def outcome(
    document: Mapping[str, object],
    report: Report,
    home: Path,
    failure: DeployError | None = None,
    *,
    bundle: Path | None = None,
) -> Outcome:
    """The outcome of a command that showed a report; `bundle` is the folder of the run's bundle, if it was packed."""
    result = conclusion(report, home)
    verdict_line = f"{report.model}: {result.verdict}. {''.join(result.reasons[:1])}".strip()
    return Outcome(document, verdict_line, failure, on_device(bundle) if bundle and result.passed else result.next)


def on_device(bundle: Path) -> str:
    """The next step after packing."""
    return f"on the device: python -m deploytool.device verify {bundle}"


def _verdict_lines(result: Conclusion, home: Path) -> list[str]:
    """The verdict with all reasons, what is pending, and the path of the page."""
    page = [f"Report: {home / PAGE}"] if (home / PAGE).is_file() else []
    first, *others = result.reasons or ("",)
    lines = [f"Verdict: {result.verdict}. {first}".strip(), *(f"  also {line}" for line in others)]
    return [*lines, *(f"Not verified here: {line}" for line in result.pending if result.passed), *page]
