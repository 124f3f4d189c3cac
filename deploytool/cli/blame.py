"""`deploytool blame`: which stage broke a run, and which layer of the model it broke."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deploytool import serde
from deploytool.cli import console as cli_console
from deploytool.cli import interrupt
from deploytool.cli.command import Outcome
from deploytool.errors import BadInput, ParityFailed
from deploytool.results import blame as results_blame
from deploytool.results import receipt, report, verdict
from deploytool.results.artifact import Kind
from deploytool.results.blame import BlamedGraph, Finding, Layer
from deploytool.results.receipt import Receipt
from deploytool.spec import Stage

if TYPE_CHECKING:
    from deploytool.blame.reduce import Mismatch

_SINGLE = f"{Stage.REWRITE}/{Kind.GRAPH.value}"  # the FP32 graph
_NEXT = {
    Stage.EXPORT: "try --exporter auto, or write that layer in another way",
    Stage.SIMPLIFY: f"deploy {Stage.EXPORT}/{Kind.GRAPH.value}, and report both graphs to onnxsim",
    Stage.REWRITE: f"export again with --rewrite original, and report {Stage.SIMPLIFY}/{Kind.GRAPH.value}",
    Stage.FP16: f"export again with {verdict.KEEP_FP32_OPTION}, or deploy {_SINGLE}",
}
_OPTIMISED = "this is what ONNX Runtime's optimiser does to a sound file: try another version of it"
_NO_LAYER = {
    Stage.EXPORT: _OPTIMISED,
    Stage.SIMPLIFY: _OPTIMISED,
    Stage.REWRITE: _OPTIMISED,
    Stage.FP16: (
        f"FP16 is too coarse for so much of it: export again with {verdict.KEEP_FP32_OPTION}, or deploy {_SINGLE}"
    ),
}
_CHANGED = "the file is not the one that the stage made: export again"


def blame(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
    reduce_: Annotated[
        bool, typer.Option("--reduce", help="Write the smallest graph that shows it, into RUN/blame.")
    ] = False,
    trust_code: Annotated[
        bool, typer.Option("--trust-code", help="Run the code that the run names, wherever it is from.")
    ] = False,
) -> Outcome:
    """Finds the first graph of a run that deviates from the one before, and in it the first layer that does.

    Examples: deploytool blame artifacts/shufflenet_g3 · deploytool blame artifacts/shufflenet_g3 --reduce
    """
    from deploytool.pipeline import runner, trust  # here begins numpy

    console, rooms = cli_console.stderr_console(), runner.stage_directories(run)
    kept = {sealed.kind: room / sealed.kind.value for room, sealed in rooms}
    graphs = [(sealed.made_by, room / Kind.GRAPH.value) for room, sealed in rooms if sealed.kind is Kind.GRAPH]
    if not graphs or not {Kind.WEIGHTS, Kind.GOLDEN} <= set(kept):
        raise BadInput(f"{run} holds no run with a graph", "give a folder that `deploytool export` made")
    trust.check(run, trust_code=trust_code)

    from deploytool.blame import locate, reduce, reproducer  # here begins torch
    from deploytool.parity import intermediates
    from deploytool.report import update

    wanted = verdict.requested_tolerances(report.read(kept[Kind.REPORT])) if Kind.REPORT in kept else {}
    watched = intermediates.read(kept[Kind.PROBES]).values if Kind.PROBES in kept else ()
    digests = {stage.value: serde.file_digest(file) for stage, file in graphs}
    found, clue = locate.locate(kept[Kind.WEIGHTS], kept[Kind.GOLDEN], graphs, wanted, tuple(watched))
    results_blame.write(run, digests, found)
    if Kind.REPORT in kept:
        update.refresh(report.read(kept[Kind.REPORT]), run)
    small = reduce.reduce(clue) if reduce_ and clue else None
    with interrupt.sweeping(partial(runner.sweep, run)):
        packed = reproducer.write(run, clue, small) if clue and small else None
    failure = _failure(found.finding, rooms) if found.finding else None
    document = {"run": str(run), "blame": found, "pack": str(packed) if packed else None}
    columns = ("graph", ">vs before", "verdict", "worst layer", ">error", ">noise floor")
    cli_console.table(
        console, "The worst layer of each graph", columns, [_row(comparison) for comparison in found.comparisons]
    )
    if found.finding is None:
        message = "No graph deviates from the one before or from the source."
        cli_console.say(console, message)
        if reduce_:
            cli_console.say(console, "Nothing to reduce: no failure pack was written.")
        return Outcome(document, message)
    for line in _lines(found.finding):
        cli_console.say(console, line)
    if reduce_:
        cli_console.say(console, _packed(packed, small))
    return Outcome(document, "", failure)


def _row(comparison: BlamedGraph) -> tuple[str, ...]:
    verdict = "FAIL" if any(check.broken for check in comparison.checks) else "pass"
    cells = (comparison.stage, f"{comparison.checks[0].parity.max_error:.1e}", verdict)
    judged = [layer for layer in comparison.layers if layer.error is not None]
    if not judged:
        return (*cells, "–", "–", "–")
    worst = max(judged, key=lambda layer: (layer.error or 0.0) / layer.noise_floor)
    return (*cells, _module(worst.module), f"{worst.error:.1e}", f"{worst.noise_floor:.1e}")


def _lines(finding: Finding) -> list[str]:
    """The finding, a line for each thing to know."""
    lines = [f"{finding.stage}/{Kind.GRAPH.value} deviates from {finding.against}"]
    if finding.layer is None:
        return [*lines, "  but no tensor exceeds its noise floor: no single layer is the cause"]
    layer = finding.layer
    lines += [
        f"  first in       {_module(finding.module)}" + (", whose tensor is lost" if finding.lost else ""),
        f"  seen at        {layer.op} {layer.node}, tensor {layer.tensor}",
        f"  error there    {_error(layer)} (noise floor {layer.noise_floor:.1e})",
    ]
    if finding.worst_input:
        lines.append(f"  error before   {_error(finding.worst_input)} (at {finding.worst_input.tensor})")
    return lines


def _packed(place: Path | None, small: Mismatch | None) -> str:
    if place is None or small is None:
        return "Nothing was written: no part of the graph shows the mismatch by itself."
    count = len(small.subgraph.nodes)
    nodes = "1 node" if count == 1 else f"{count} nodes"
    return f"Failure pack: {place} ({nodes}); show it with: python {place / 'show.py'}"


def _failure(finding: Finding, rooms: list[tuple[Path, Receipt]]) -> ParityFailed:
    """The exit, with the next step: a spoiled file is made again, a whole one is worked on."""
    where = f"first in {_module(finding.module)}" if finding.layer else "in no single layer"
    whole = all(receipt.matches(room, sealed) for room, sealed in rooms if room.name == finding.stage)
    remedy = (_NEXT if finding.layer else _NO_LAYER)[finding.stage] if whole else _CHANGED
    return ParityFailed(f"{finding.stage} deviates from {finding.against}, {where}", remedy)


def _module(path: str) -> str:
    return path or "the model itself"


def _error(layer: Layer) -> str:
    return "unknown, for nothing else has its shape" if layer.error is None else f"{layer.error:.1e}"
