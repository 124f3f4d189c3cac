"""`deploytool bench`: measures the speed of a bundle's backends, or of a run's artifacts against the original."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deploytool.cli import console as cli_console
from deploytool.cli import device as devices
from deploytool.cli import progress
from deploytool.cli.command import Outcome
from deploytool.device import arguments
from deploytool.errors import BadInput, DeployError, NotVerified, TooSlow
from deploytool.host import machine
from deploytool.pipeline import runner
from deploytool.results import speed_gate
from deploytool.spec import GateOutcome, SpeedVerdict, state_text

if TYPE_CHECKING:
    from deploytool.benchmark.result import BatchResult, Bench, Gate, Row

_MANIFEST = "manifest.json"
_SECONDS_PER_BATCH = 10.0
_NONE = "–"


class Device(str, Enum):
    """The device that the model and its artifacts run on."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


def bench(
    what: Annotated[Path, typer.Argument(metavar="BUNDLE|RUN", help="The folder of a bundle or of a run.")],
    seconds: Annotated[
        float | None,
        typer.Option(
            min=arguments.SECONDS.minimum,
            max=arguments.SECONDS.maximum,
            help="Seconds of timing for each backend of a bundle, or each batch size of a run.",
            show_default=f"{arguments.SECONDS.default:g}, {_SECONDS_PER_BATCH:g}",
        ),
    ] = None,
    max_latency: devices.MaxLatency = None,
    key: devices.Key = None,
    require: devices.Require = None,
    build: devices.Build = False,
    batch: Annotated[
        str | None, typer.Option(metavar="N,…", help="For a run: batch sizes, separated by commas.", show_default="1")
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(min=1, max=1024, help="For a run: threads of each session.", show_default="all"),
    ] = None,
    device: Annotated[
        Device | None, typer.Option(help="For a run: device that all artifacts run on.", show_default="auto")
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="For a run: baseline of the speed-ups.", show_default="the original"),
    ] = None,
    torch_compile: Annotated[
        bool, typer.Option("--compile", help="For a run: also time torch.compile, which takes minutes.")
    ] = False,
    min_speedup: Annotated[
        float | None, typer.Option(min=0, help="For a run: fail below this speed-up over the baseline.")
    ] = None,
    trust_code: Annotated[
        bool, typer.Option("--trust-code", help="Run the code that the run refers to, whoever made the run.")
    ] = False,
) -> Outcome:
    """Times every backend that runs a bundle on this machine, or every artifact of a run and the original.

    Examples: deploytool bench artifacts/mixnet_s --batch 1,8 · deploytool bench artifacts/mixnet_s/pack/bundle
    """
    bundle_options: dict[str, object] = {"--require-signature": key, "--require": require, "--build": build or None}
    bundle_options["--max-latency"] = max_latency
    run_options: dict[str, object] = {"--batch": batch, "--threads": threads, "--device": device}
    run_options |= {"--baseline": baseline, "--compile": torch_compile or None, "--min-speedup": min_speedup}
    if (what / _MANIFEST).exists():
        _refuse(run_options, "a run", f"{what} is a bundle")
        seconds = seconds or arguments.SECONDS.default
        values = Namespace(bundle=what, seconds=seconds, max_latency=max_latency, key=key, require=require, build=build)
        return devices.forward("bench", values)
    if not runner.stage_directories(what):
        raise BadInput(
            f"{what} holds neither a bundle nor a run",
            "give a folder that `pack` or `export` made",
        )
    _refuse(bundle_options, "a bundle", f"{what} is a run")
    batches = _batches(batch or "1")

    from deploytool.benchmark import result, run  # imports numpy
    from deploytool.pipeline import trust  # imports torch

    options = run.BenchOptions(
        batches=batches,
        threads=threads or machine.processors(),
        seconds=seconds or _SECONDS_PER_BATCH,
        device=device.value if device else run.AUTO,
        baseline=baseline or run.AUTO,
        torch_compile=torch_compile,
        min_speedup=min_speedup,
    )
    artifacts = runner.artifacts(what)
    trust.check(what, trust_code=trust_code)
    measured = progress.run_step(
        cli_console.stderr_console(), "bench", lambda watch: run.run(what, artifacts, options, watch)
    )
    _show(measured, result.write(what, measured))
    return Outcome({"run": str(what), "bench": measured}, _verdict(measured), _failure(measured.gate))


def _show(bench: Bench, path: Path) -> None:
    """Prints a table for each batch size with its conditions below, and the path of the file."""
    console = cli_console.stdout_console()
    for sweep in bench.sweeps:
        columns = ("", ">p50 ms", ">p90", ">p99", ">CPU ms", f"× {bench.baseline} (95 %)", "verdict")
        cli_console.table(console, _title(bench, sweep), columns, [_row(row) for row in sweep.rows])
        for line in _condition_lines(bench, sweep):
            cli_console.say(console, line)
    if gate := bench.gate:
        cli_console.say(console, speed_gate.line(gate.min_speedup, gate.outcome, gate.reason, gate.judged))
    cli_console.say(console, f"Written: {path}")


def _verdict(bench: Bench) -> str:
    """The verdict on the last artifact that was timed, for every batch size."""
    rows = [(sweep.batch, next(row for row in reversed(sweep.rows) if row.latency)) for sweep in bench.sweeps]
    return "; ".join(
        f"{row.name} at batch {batch}: {state_text(row.verdict, row.reason) if row.verdict else 'the baseline'}"
        for batch, row in rows
    )


def _refuse(options: Mapping[str, object], kind: str, actual: str) -> None:
    """Raises BadInput if an option is given that applies only to the other kind of folder."""
    for name, value in options.items():
        if value is not None:
            raise BadInput(f"{name} applies to {kind}, and {actual}", "leave it out")


def _batches(text: str) -> tuple[int, ...]:
    """The batch sizes in a comma-separated list; raises BadInput if it is invalid."""
    words = text.split(",")
    if not all(word.strip().isdecimal() and int(word) > 0 for word in words):
        raise BadInput(f"--batch {text} is not a list of batch sizes", "write --batch 1,8")
    return tuple(dict.fromkeys(int(word) for word in words))


def _title(bench: Bench, sweep: BatchResult) -> str:
    threads = "1 thread" if bench.threads == 1 else f"{bench.threads} threads"
    device = threads if bench.device == "cpu" else bench.device
    return f"{bench.model} at batch {sweep.batch}, {device}, {sweep.rounds} interleaved rounds"


def _row(row: Row) -> tuple[str, ...]:
    """Name, percentiles, CPU time, speed-up with its interval, verdict."""
    if row.latency is None:
        return (row.name, _NONE, _NONE, _NONE, _NONE, state_text(row.status, "below" if row.reason else ""), "")
    latency = row.latency
    p99 = _NONE if latency.p99_ms is None else _ms(latency.p99_ms)
    cells = (row.name, _ms(latency.p50_ms), _ms(latency.p90_ms), p99, _ms(latency.cpu_ms))
    if row.ratio is None or row.verdict is None:
        return (*cells, "the baseline", "")
    interval = f"{row.ratio.value:.2f}× ({row.ratio.low:.2f}–{row.ratio.high:.2f})"
    if row.verdict is SpeedVerdict.NO_VERDICT:
        interval = f"{row.cpu_ratio.value:.2f}× by CPU time" if row.cpu_ratio else _NONE
    return (*cells, interval, str(row.verdict))


def _ms(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:.0f}"


def _condition_lines(bench: Bench, sweep: BatchResult) -> list[str]:
    """The machine and its load, the control, what was not timed, and the reasons for no verdict."""
    conditions, control = sweep.conditions, sweep.control
    others = ""
    if conditions.others is not None:
        others = f", other programs took {conditions.others:.1f} of {conditions.cores} cores"
    interval = f"{control.value:.2f}× ({control.low:.2f}–{control.high:.2f})"
    lines = [
        f"On {bench.machine}: load {conditions.load:.1f}{others}",
        f"Control: {bench.baseline} against a second session of itself {interval}",
    ]
    lines += [f"GPU clock, maximum clock, throttle reasons, temperature: {line}" for line in conditions.gpu]
    bound = [row.name for row in sweep.rows if row.latency and row.latency.launch_bound]
    lines += [f"The GPU waits for kernel launches: {', '.join(bound)}"] if bound else []
    lines += [
        f"{row.name}: {state_text(row.status, row.reason)}" for row in sweep.rows if row.reason and not row.latency
    ]
    reasons = dict.fromkeys(row.reason for row in sweep.rows if row.verdict is SpeedVerdict.NO_VERDICT)
    return [*lines, *(f"No verdict ({reason})" for reason in reasons)]


def _failure(gate: Gate | None) -> DeployError | None:
    """The error if --min-speedup is missed or undecided; None if it is reached or not given."""
    if gate is None or gate.outcome is GateOutcome.REACHED:
        return None
    requirement = f"{gate.name}, {gate.min_speedup:g}× the baseline"
    if gate.outcome is GateOutcome.MISSED:
        return TooSlow(f"too slow: {requirement}: {gate.reason}", "see the table above, or lower --min-speedup")
    remedy = "measure longer (--seconds), on an idle machine that can run it"
    return NotVerified(f"not verified: {requirement}: {gate.reason}", remedy)
