"""What a run showed, as tables and one verdict; drawn from the report and from nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from deploytool.cli import console as cli_console
from deploytool.cli.command import Outcome
from deploytool.errors import DeployError
from deploytool.host import disk
from deploytool.report import PAGE
from deploytool.results import blame as results_blame
from deploytool.results import verdict
from deploytool.results.artifact import Kind
from deploytool.results.faults import SPOKEN, FaultsResult
from deploytool.results.report import Check, Comparison, Engine, Report, Speed
from deploytool.results.verdict import Conclusion
from deploytool.spec import SpeedVerdict, Stage, TargetPlan, spoken
from deploytool.targets import FLAVOURS

_NONE = "–"


def show(console: Console, written: Report, home: Path) -> None:
    """The comparisons, the speeds, the targets, the verdict and the next step."""
    title = f"{written.model}: largest error / largest output on {written.images} golden images"
    columns = ("artifact", ">size", ">before", ">FP64", ">noise", ">top-1", "status")
    cli_console.table(console, title, columns, [_comparison(comparison, home) for comparison in written.comparisons])
    for line in [*_tolerances(written), *_equal(written)]:
        cli_console.say(console, line)
    if written.data and any(comparison.agreement for comparison in written.comparisons):
        _agreement(console, written)
    if written.speeds:
        title = f"Speed at batch {written.batch}, {written.rounds} rounds in turn on {written.device}"
        speed_columns = ("artifact", ">latency", ">eager", "speed-up (95 % interval)")
        cli_console.table(console, title, speed_columns, [_speed(speed) for speed in written.speeds])
    findings = (*_unsaid(written), *_reach(written), *_proof(written), *written.remarks)
    for line in (*findings, *_engines(written, home), *_closing(closing(written, home), home)):
        cli_console.say(console, line)


def _agreement(console: Console, written: Report) -> None:
    """How often each artifact names the source's class on the user's photographs, and what the labels say."""
    title = f"Agreement with the source on {written.images} photographs of {written.data}"
    columns = ("artifact", ">same class", "95 % interval", "flips", "accuracy")
    rows = []
    for comparison in written.comparisons:
        if (found := comparison.agreement) is not None:
            flips = f"{len(found.flips)} (margin ≤ {found.flips[0].margin:.0e})" if found.flips else "0"
            known = (
                f"{comparison.accuracy.artifact:.1%} (p {comparison.accuracy.p_value:.2g})"
                if comparison.accuracy
                else _NONE
            )
            interval = f"{found.low:.1%}–{found.high:.1%}"
            rows.append((f"{comparison.stage}/{comparison.file}", f"{found.top1:.1%}", interval, flips, known))
    cli_console.table(console, title, columns, rows)


def _comparison(comparison: Comparison, home: Path) -> tuple[str, ...]:
    file = home / comparison.stage / comparison.file
    size = disk.size(file.stat().st_size) if file.is_file() else _NONE if comparison.left_out else "missing"
    name = f"{comparison.stage}/{comparison.file}"
    if not comparison.checks:
        return (name, size, _NONE, _NONE, _NONE, _NONE, spoken(comparison.status, comparison.reason))
    if comparison.runner in verdict.AGAIN:
        name, size = f"  {verdict.AGAIN[comparison.runner]}", ""
    before = _error(comparison.checks[0]) if len(comparison.checks) > 1 else _NONE
    truth = comparison.checks[-1]
    held = "FAIL" if any(check.broken for check in comparison.checks) else "pass"
    where = "" if comparison.device == "cpu" else f" on {comparison.device}"
    top1 = _NONE if truth.parity.top1 is None else f"{truth.parity.top1:.0%}"
    noise = f"{truth.parity.max_error / truth.tolerance.noise:.1f}×" if truth.tolerance.noise else _NONE
    return (name, size, before, _error(truth), noise, top1, f"{comparison.status}{where}: {held}")


def _tolerances(written: Report) -> list[str]:
    """What was allowed, and what the noise of the model and the margin of its decisions make of that."""
    limits = verdict.part_tolerances(written)
    lines = []
    for part, each in limits.items():
        where = f" in {part}" if len(limits) > 1 else ""
        allowed = [f"{name.upper()} {one.max_error:.1e} (noise {one.noise:.1e})" for name, one in each.items()]
        lines.append(f"Tolerated{where}: {', '.join(allowed)}")
    margin = f"the closest decision has a margin of {written.margin:.1e}"
    return [f"{lines[0]}; {margin}"] if len(lines) == 1 else [*lines, margin[0].upper() + margin[1:]]


def _equal(written: Report) -> list[str]:
    """How many elements are equal of what is compared by equality, where anything is."""
    lines = []
    for comparison in written.comparisons:
        for each in comparison.checks[-1].each if comparison.checks else ():
            if each.parity.equal and each.parity.equal.share < 1:
                name = verdict.judged(comparison)
                lines.append(f"{name}: {verdict.describe_equality(each.parity.equal)} in {each.part}")
    return list(dict.fromkeys(lines))


def _error(check: Check) -> str:
    """The error of the worst part; how much is equal, where nothing else is compared."""
    equal = check.parity.equal
    if equal and all(each.parity.equal for each in check.each):
        return "all equal" if equal.share == 1 else f"{100 * equal.share:.4g} % equal"
    return f"{check.parity.max_error:.1e}"


def _speed(speed: Speed) -> tuple[str, ...]:
    name = f"{speed.stage}/{speed.file}"
    if speed.ratio is None:
        return (name, _NONE, _NONE, spoken(speed.status, speed.reason))
    latency, eager = f"{speed.latency_ms:.2f} ms", f"{speed.eager_ms:.2f} ms"
    return (name, latency, eager, _spoken(speed))


def _spoken(speed: Speed) -> str:
    """The speed-up with its interval, as far as something may be said of it."""
    interval = f"{speed.low:.2f}–{speed.high:.2f}"
    if speed.verdict is SpeedVerdict.NO_VERDICT:
        return f"{speed.verdict}, see below"
    if speed.verdict is SpeedVerdict.NEITHER:
        return f"{interval}: {speed.verdict}"
    return f"{speed.ratio:.2f}× ({interval})"


def _unsaid(written: Report) -> list[str]:
    """Why some speeds have no verdict, each reason once."""
    refused = (speed for speed in written.speeds if speed.verdict is SpeedVerdict.NO_VERDICT)
    said = dict.fromkeys(speed.reason for speed in refused)
    return [f"Speed: {spoken(SpeedVerdict.NO_VERDICT, reason)}" for reason in said]


def _reach(written: Report) -> list[str]:
    """How near the FP16 graph comes to the ends of FP16."""
    if (reach := written.reach) is None:
        return []
    lines = [f"FP16 range: largest value {reach.largest:.4g} of 65504, made by {reach.node}"]
    if reach.coarse:
        lines.append(f"  beyond 512, where FP16 has steps of half: {', '.join(reach.coarse[:5])}")
    weights = reach.weights
    return [
        *lines,
        f"  {weights.flushed:,} of {weights.all:,} weights are too small for FP16, {weights.subnormal:,} lose digits",
    ]


def _proof(written: Report) -> list[str]:
    return proof(written.proof) if written.proof else []


def proof(found: FaultsResult) -> list[str]:
    """What the checks were proved to catch."""
    if not found.families:
        return ["Proof: none, for the graph as it is fails its checks"]
    planted, same = (sum(getattr(each, name) for each in found.families) for name in ("planted", "equivalent"))
    each = []
    for check, name in SPOKEN.items():
        caught, missed = found.count(check, "caught"), found.count(check, "missed")
        if caught + missed:
            each.append(f"the {name} caught {caught} of {caught + missed}")
    changed = f"; {same} change nothing, proved" if same else ""
    return [f"Proof: of {planted} planted faults, as far as they matter, {' and '.join(each)}{changed}"]


def _engines(written: Report, home: Path) -> list[str]:
    """What each engine is for, and where the targets stand that have none."""
    lines = [f"{home / Stage.BUILD / engine.file}: {_serves(engine, written)}" for engine in written.engines]
    for target in written.targets:
        if target.verdict is TargetPlan.ON_DEVICE:
            lines.append(f"{target.target}: to be built on the device, from {home / Stage.FP16 / Kind.GRAPH.value}")
        elif target.verdict is TargetPlan.NOT_SERVED:
            lines.append(f"{target.target}: not served ({target.why})")
    return lines


def _serves(engine: Engine, written: Report) -> str:
    capabilities = ", ".join(engine.capabilities) or FLAVOURS[engine.flavour].coverage
    names = verdict.targets_served(engine, written)
    return f"{engine.flavour} {engine.version} for {' '.join(names)} (compute capability {capabilities})"


def closing(written: Report, home: Path) -> Conclusion:
    """What the run comes to, with what blame found in it, if anybody looked."""
    blame = results_blame.read(home)
    return verdict.conclude(written, home, blame.finding if blame else None)


def outcome(
    document: Mapping[str, object],
    written: Report,
    home: Path,
    failure: DeployError | None = None,
    *,
    bundle: Path | None = None,
) -> Outcome:
    """How a command ends that showed a report; `bundle` is the folder of the run's bundle, if it was packed."""
    found = closing(written, home)
    verdict_line = f"{written.model}: {found.verdict}. {''.join(found.reasons[:1])}".strip()
    return Outcome(document, verdict_line, failure, on_device(bundle) if bundle and found.held else found.next)


def on_device(bundle: Path) -> str:
    """The next step after packing."""
    return f"on the device: python -m deploytool.device verify {bundle}"


def _closing(found: Conclusion, home: Path) -> list[str]:
    """The verdict, what is still to be done, and where the page is."""
    page = [f"Report: {home / PAGE}"] if (home / PAGE).is_file() else []
    first, *others = found.reasons or ("",)
    lines = [f"Verdict: {found.verdict}. {first}".strip(), *(f"  also {line}" for line in others)]
    return [*lines, *(f"Not verified here: {line}" for line in found.pending if found.held), *page]
