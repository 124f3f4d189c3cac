"""`deploytool blame`: finds the stage at which a run deviates, and the first layer that it affects."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
from deploytool.results.blame import Blame, BlamedGraph, Finding, Layer
from deploytool.results.receipt import Receipt
from deploytool.spec import Stage

if TYPE_CHECKING:
    from deploytool.blame.reduce import Mismatch

_SINGLE = f"{Stage.REWRITE}/{Kind.GRAPH.value}"  # the FP32 graph
_NEXT = {
    Stage.EXPORT: "try the other --exporter, or rewrite that layer; report it with the file if that was given",
    Stage.SIMPLIFY: f"deploy {Stage.EXPORT}/{Kind.GRAPH.value}, and report both graphs to onnxsim",
    Stage.REWRITE: f"export again with --rewrite original, and report {Stage.SIMPLIFY}/{Kind.GRAPH.value}",
    Stage.FP16: f"export again with {verdict.KEEP_FP32_OPTION}, or deploy {_SINGLE}",
}
_OPTIMISED = "ONNX Runtime's optimiser changes the outputs of a correct file: try another version of ONNX Runtime"
_NO_LAYER = {
    Stage.EXPORT: _OPTIMISED,
    Stage.SIMPLIFY: _OPTIMISED,
    Stage.REWRITE: _OPTIMISED,
    Stage.FP16: (
        f"FP16 is not precise enough for many layers: export again with {verdict.KEEP_FP32_OPTION}, or deploy {_SINGLE}"
    ),
}
_CHANGED = "the file was changed after its stage wrote it: export again"


def blame(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
    reduce_: Annotated[
        bool, typer.Option("--reduce", help="Write the smallest graph that shows the mismatch to RUN/blame.")
    ] = False,
    trust_code: Annotated[
        bool, typer.Option("--trust-code", help="Run the code that the run refers to, whoever made the run.")
    ] = False,
) -> Outcome:
    """Finds the first graph of a run that deviates from its predecessor, and the first layer that deviates in it.

    Examples: deploytool blame artifacts/shufflenet_g3 · deploytool blame artifacts/shufflenet_g3 --reduce
    """
    from deploytool.pipeline import runner, trust  # imports numpy

    stages = runner.stage_directories(run)
    paths = {entry.kind: folder / entry.kind.value for folder, entry in stages}
    graphs = [(entry.made_by, folder / Kind.GRAPH.value) for folder, entry in stages if entry.kind is Kind.GRAPH]
    if not graphs or not {Kind.WEIGHTS, Kind.GOLDEN} <= set(paths):
        raise BadInput(f"{run} has no run with a graph", "give a folder that `deploytool export` made")
    trust.check(run, trust_code=trust_code)

    from deploytool.blame import locate, reduce, reproducer  # imports torch
    from deploytool.parity import intermediates
    from deploytool.report import update

    tolerances = verdict.requested_tolerances(report.read(paths[Kind.REPORT])) if Kind.REPORT in paths else {}
    probes = intermediates.read(paths[Kind.PROBES]).values if Kind.PROBES in paths else ()
    digests = {stage.value: serde.file_digest(file) for stage, file in graphs}
    result, clue = locate.locate(paths[Kind.WEIGHTS], paths[Kind.GOLDEN], graphs, tolerances, tuple(probes))
    results_blame.write(run, digests, result)
    if Kind.REPORT in paths:
        update.refresh(report.read(paths[Kind.REPORT]), run)
    mismatch = reduce.reduce(clue) if reduce_ and clue else None
    with interrupt.sweeping(partial(runner.sweep, run)):
        pack = reproducer.write(run, clue, mismatch) if clue and mismatch else None
    lines = [*_lines(result.finding), *([_pack_line(result.finding, pack, mismatch)] if reduce_ else [])]
    _show(result, lines)
    document = {"run": str(run), "blame": result, "pack": str(pack) if pack else None}
    if result.finding is None:
        return Outcome(document, lines[0])
    return Outcome(document, "", _failure(result.finding, stages))


def _show(result: Blame, lines: Sequence[str]) -> None:
    """Prints the worst layer of each graph, then the lines."""
    console = cli_console.stderr_console()
    columns = ("graph", ">previous", "verdict", "worst layer", ">error", ">noise floor")
    rows = [_row(comparison) for comparison in result.comparisons]
    cli_console.table(console, "The worst layer of each graph", columns, rows)
    for line in lines:
        cli_console.say(console, line)


def _row(comparison: BlamedGraph) -> tuple[str, ...]:
    """Stage, error against the previous graph, verdict, and the layer with the largest error in units of its noise."""
    verdict = "FAIL" if any(check.broken for check in comparison.checks) else "pass"
    cells = (comparison.stage, f"{comparison.checks[0].parity.max_error:.1e}", verdict)
    compared = [layer for layer in comparison.layers if layer.error is not None]
    if not compared:
        return (*cells, "–", "–", "–")
    worst = max(compared, key=lambda layer: (layer.error or 0.0) / layer.noise_floor)
    return (*cells, _module(worst.module), f"{worst.error:.1e}", f"{worst.noise_floor:.1e}")


def _lines(finding: Finding | None) -> list[str]:
    """The finding: graph, layer, ONNX node and errors."""
    if finding is None:
        return ["No graph deviates from its predecessor or from the source."]
    lines = [f"{finding.stage}/{Kind.GRAPH.value} deviates from {finding.against}"]
    if finding.layer is None:
        return [*lines, "  no tensor exceeds its noise floor: no single layer is the cause"]
    layer = finding.layer
    lines += [
        f"  first layer    {_module(finding.module)}" + (", whose tensor is not in the graph" if finding.lost else ""),
        f"  ONNX node      {layer.op} {layer.node}, tensor {layer.tensor}",
        f"  output error   {_error(layer)} (noise floor {layer.noise_floor:.1e})",
    ]
    if finding.worst_input:
        lines.append(f"  input error    {_error(finding.worst_input)} (tensor {finding.worst_input.tensor})")
    return lines


def _pack_line(finding: Finding | None, pack: Path | None, mismatch: Mismatch | None) -> str:
    """Where `--reduce` wrote the reproducer, or why it wrote none."""
    if finding is None:
        return "Nothing to reduce: no failure pack was written."
    if pack is None or mismatch is None:
        return "No failure pack was written: no part of the graph shows the mismatch by itself."
    count = len(mismatch.subgraph.nodes)
    nodes = "1 node" if count == 1 else f"{count} nodes"
    return f"Failure pack: {pack} ({nodes}); reproduce with: python {pack / 'show.py'}"


def _failure(finding: Finding, stages: Iterable[tuple[Path, Receipt]]) -> ParityFailed:
    """The error with the next step, which depends on the stage and on whether its file was changed."""
    layer = f"first in {_module(finding.module)}" if finding.layer else "in no single layer"
    unchanged = all(receipt.matches(folder, entry) for folder, entry in stages if folder.name == finding.stage)
    remedy = (_NEXT if finding.layer else _NO_LAYER)[finding.stage] if unchanged else _CHANGED
    return ParityFailed(f"{finding.stage} deviates from {finding.against}, {layer}", remedy)


def _module(path: str) -> str:
    """The path of a module; that of the model is empty."""
    return path or "the model itself"


def _error(layer: Layer) -> str:
    """The error of a layer; it is unknown if no reference tensor has its shape."""
    return "unknown, no reference has its shape" if layer.error is None else f"{layer.error:.1e}"
