"""`deploytool bench`: how fast a bundle is on this device, or a run on this desk beside the model it was made from."""

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
from deploytool.pipeline import runner
from deploytool.spec import GateOutcome, SpeedVerdict, state_text

if TYPE_CHECKING:
    from deploytool.benchmark.result import BatchResult, Bench, Gate, Row

_MANIFEST = "manifest.json"
_SECONDS_OF_A_BATCH = 10.0
_NONE = "–"


class Device(str, Enum):
    """What runs the model and its artifacts."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


def bench(
    what: Annotated[Path, typer.Argument(metavar="BUNDLE|RUN", help="A bundle's folder, or a run's.")],
    seconds: Annotated[
        float | None,
        typer.Option(
            min=arguments.SECONDS.minimum,
            max=arguments.SECONDS.maximum,
            help="Seconds for each backend of a bundle, or each batch of a run.",
            show_default=f"{arguments.SECONDS.default:g}, {_SECONDS_OF_A_BATCH:g}",
        ),
    ] = None,
    key: devices.Key = None,
    require: devices.Require = None,
    build: devices.Build = False,
    batch: Annotated[
        str | None, typer.Option(metavar="N,…", help="For a run: batch sizes, separated by commas.", show_default="1")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, max=1024, help="For a run: threads of each session.", show_default="all")
    ] = None,
    device: Annotated[
        Device | None, typer.Option(help="For a run: the device that everything runs on.", show_default="auto")
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(metavar="NAME", help="For a run: the baseline of the speed-ups.", show_default="eager")
    ] = None,
    torch_compile: Annotated[
        bool, typer.Option("--compile", help="For a run: time torch.compile too, which takes minutes.")
    ] = False,
    min_speedup: Annotated[
        float | None, typer.Option(min=0, help="For a run: fail below this speed-up against the baseline.")
    ] = None,
    trust_code: Annotated[
        bool, typer.Option("--trust-code", help="Run the code that the run names, wherever it is from.")
    ] = False,
) -> Outcome:
    """Times every way to run a bundle that works here, or every artifact of a run in turn with the eager model.

    Examples: deploytool bench artifacts/mixnet_s --batch 1,8 · deploytool bench artifacts/mixnet_s/pack/bundle
    """
    of_bundle: dict[str, object] = {"--require-signature": key, "--require": require, "--build": build or None}
    of_run: dict[str, object] = {"--batch": batch, "--threads": threads, "--device": device, "--baseline": baseline}
    of_run |= {"--compile": torch_compile or None, "--min-speedup": min_speedup}
    if (what / _MANIFEST).exists():
        _belong(of_run, "a run, and this is a bundle")
        seconds = seconds or arguments.SECONDS.default
        return devices.forward("bench", Namespace(bundle=what, seconds=seconds, key=key, require=require, build=build))
    if not runner.stage_directories(what):
        raise BadInput(f"{what} holds neither a bundle nor a run", "give a folder that `pack` or `export` made")
    _belong(of_bundle, "a bundle, and this is a run")
    batches = _batches(batch or "1")

    from deploytool.benchmark import result as written  # here begins numpy
    from deploytool.benchmark import run
    from deploytool.pipeline import trust  # and torch

    asked = run.BenchOptions(
        batches=batches,
        threads=threads or cli_console.processors(),
        seconds=seconds or _SECONDS_OF_A_BATCH,
        device=device.value if device else run.AUTO,
        baseline=baseline or run.EAGER,
        torch_compile=torch_compile,
        min_speedup=min_speedup,
    )
    given = runner.artifacts(what)
    trust.check(what, trust_code=trust_code)
    found = progress.along(cli_console.stderr_console(), "bench", lambda watch: run.run(what, given, asked, watch))
    path, failure, console = written.write(what, found), _failure(found.gate), cli_console.stdout_console()
    for sweep in found.sweeps:
        columns = ("", ">p50 ms", ">p90", ">p99", ">CPU ms", f"× {found.baseline} (95 %)", "verdict")
        cli_console.table(console, _title(found, sweep), columns, [_row(row) for row in sweep.rows])
        for line in _below(found, sweep):
            cli_console.say(console, line)
    cli_console.say(console, f"Written: {path}")
    return Outcome({"run": str(what), "bench": found}, _verdict(found), failure)


def _verdict(found: Bench) -> str:
    """The last of the artifacts, which is what ships, at every batch."""
    each = [(sweep.batch, next(row for row in reversed(sweep.rows) if row.latency)) for sweep in found.sweeps]
    return "; ".join(
        f"{row.name} at batch {batch}: {state_text(row.verdict, row.reason) if row.verdict else 'the baseline'}"
        for batch, row in each
    )


def _belong(options: Mapping[str, object], to: str) -> None:
    """Refuses what was given of options that belong to the other kind of folder."""
    for name, value in options.items():
        if value is not None:
            raise BadInput(f"{name} is for {to}", "leave it out")


def _batches(text: str) -> tuple[int, ...]:
    words = text.split(",")
    if not all(word.strip().isdecimal() and int(word) > 0 for word in words):
        raise BadInput(f"--batch {text} is no list of batches", "write --batch 1,8")
    return tuple(dict.fromkeys(int(word) for word in words))


def _title(found: Bench, sweep: BatchResult) -> str:
    threads = "1 thread" if found.threads == 1 else f"{found.threads} threads"
    where = threads if found.device == "cpu" else found.device
    return f"{found.model} at batch {sweep.batch}, {where}, {sweep.rounds} rounds in turn"


def _row(row: Row) -> tuple[str, ...]:
    if row.latency is None:
        return (row.name, _NONE, _NONE, _NONE, _NONE, state_text(row.status, "below" if row.reason else ""), "")
    timed = row.latency
    p99 = _NONE if timed.p99_ms is None else _ms(timed.p99_ms)
    cells = (row.name, _ms(timed.p50_ms), _ms(timed.p90_ms), p99, _ms(timed.cpu_ms))
    if row.ratio is None or row.verdict is None:
        return (*cells, "the baseline", "")
    interval = f"{row.ratio.value:.2f}× ({row.ratio.low:.2f}–{row.ratio.high:.2f})"
    refused = row.verdict is SpeedVerdict.NO_VERDICT
    worked = f"{row.cpu_ratio.value:.2f}× by CPU time" if row.cpu_ratio else _NONE
    return (*cells, worked if refused else interval, str(row.verdict))


def _ms(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:.0f}"


def _below(found: Bench, sweep: BatchResult) -> list[str]:
    """On what, how even it was, and why some have no verdict."""
    seen, control = sweep.conditions, sweep.control
    others = "" if seen.others is None else f", other programs took {seen.others:.1f} of {seen.cores} cores"
    lines = [
        f"On {found.machine}: load {seen.load:.1f}{others}",
        f"Control: {found.baseline} beside itself {control.value:.2f}× ({control.low:.2f}–{control.high:.2f})",
    ]
    lines += [f"GPU clock, highest, throttle reasons, temperature: {line}" for line in seen.gpu]
    bound = [row.name for row in sweep.rows if row.latency and row.latency.launch_bound]
    lines += [f"The GPU waits for the host to launch: {', '.join(bound)}"] if bound else []
    lines += [
        f"{row.name}: {state_text(row.status, row.reason)}" for row in sweep.rows if row.reason and not row.latency
    ]
    reasons = dict.fromkeys(row.reason for row in sweep.rows if row.verdict is SpeedVerdict.NO_VERDICT)
    return [*lines, *(f"No verdict ({reason})" for reason in reasons)]


def _failure(gate: Gate | None) -> DeployError | None:
    """What keeps the benchmark from ending with 0: a speed-up that was asked for and is not sure."""
    if gate is None or gate.outcome is GateOutcome.REACHED:
        return None
    wish = f"{gate.name}, {gate.min_speedup:g}× the baseline"
    if gate.outcome is GateOutcome.MISSED:
        return TooSlow(f"too slow: {wish}: {gate.reason}", "see the table above, or ask for less")
    return NotVerified(f"not verified: {wish}: {gate.reason}", "measure longer, on a quiet machine that can run it")
