"""`deploytool faults`: plants faults in the graph of a run, and counts those that its checks catch."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deploytool.cli import console as cli_console
from deploytool.cli import interrupt, progress, summary
from deploytool.cli.command import Outcome
from deploytool.errors import BadInput, NotVerified
from deploytool.results import report, verdict
from deploytool.results.artifact import Kind, engine_graph
from deploytool.results.faults import CASES, ENGINE, GRAPH, FaultFamily, FaultsResult
from deploytool.spec import Precision, Stage

if TYPE_CHECKING:
    from deploytool.faults.run import Subject

_FRESH_CASES = 64  # further cases, on which faults that the golden cases do not catch are tried


def faults(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
    faults: Annotated[int, typer.Option(min=1, help="Number of faults of each kind.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the faults.")] = 0,
) -> Outcome:
    """Plants faults in the graph that a run ships, and counts how many of them its checks catch.

    Example: deploytool faults artifacts/shufflenet_g3 --faults 50
    """
    from deploytool.pipeline import runner  # imports numpy

    console = cli_console.stderr_console()
    subject, graph = _subject(run)

    from deploytool.faults import run as faults_run  # imports onnx

    result = progress.run_step(console, Stage.FAULTS, lambda watch: faults_run.run(subject, faults, seed, watch))
    if result.families and result.weak:
        with interrupt.sweeping(partial(runner.sweep, run)):
            faults_run.write_helpful_cases(run / CASES, subject, result)
    title = f"Faults planted in {graph}: caught of those beyond the tolerance, and the smallest error caught"
    columns = ("fault", ">planted", ">no effect", ">graph", ">smallest", ">FP16", ">smallest")
    cli_console.table(console, title, columns, [_row(family) for family in result.families if family.planted])
    lines = summary.fault_lines(result)
    for line in lines:
        cli_console.say(console, line)
    return Outcome({"run": str(run), "faults": result}, lines[0], _failure(run, result), next=f"deploytool pack {run}")


def _subject(run: Path) -> tuple[Subject, Path]:
    """The graph that a run ships with the data of its checks, and the path of the graph.

    Raises BadInput if the folder has no run with two graphs, weights and golden cases, or if its source was changed.
    """
    from deploytool.pipeline import runner

    stages = runner.stage_directories(run)
    paths = {receipt.kind: folder / receipt.kind.value for folder, receipt in stages}
    graphs = [(folder / Kind.GRAPH.value, receipt) for folder, receipt in stages if receipt.kind is Kind.GRAPH]
    if len(graphs) < 2 or not {Kind.WEIGHTS, Kind.GOLDEN} <= set(paths):
        raise BadInput(f"{run} has no run with graphs to check", "give a folder that `deploytool export` made")
    runner.check_source(run, needed=False)

    from deploytool.faults import run as faults_run

    (before, _), (graph, receipt) = graphs[-2:]
    subject = faults_run.subject(
        paths[Kind.WEIGHTS],
        paths[Kind.GOLDEN],
        engine_graph(before),
        graph,
        half=receipt.made_by.precision is Precision.FP16,
        wanted=verdict.requested_tolerances(report.read(paths[Kind.REPORT])) if Kind.REPORT in paths else {},
        fresh=_FRESH_CASES,
    )
    return subject, graph


def _failure(run: Path, result: FaultsResult) -> NotVerified | None:
    """The error if the unmodified graph fails its checks, or if the golden cases miss too much."""
    if not result.families:
        return NotVerified("the unmodified graph fails its checks", f"find the layer: deploytool blame {run}")
    if result.weak:
        remedy = f"export again with --cases {run / CASES}: these {len(result.helpful)} cases catch all faults"
        return NotVerified(f"the golden cases miss {verdict.missed_line(result)}", remedy)
    return None


def _row(family: FaultFamily) -> tuple[str, ...]:
    """Kind, number planted, number without effect, then for each check how many were caught and the smallest error."""
    cells = [family.name.replace("_", " "), str(family.planted), str(family.equivalent or "")]
    for check in (GRAPH, ENGINE):
        power = family.by_check.get(check)
        relevant = power.caught + power.missed if power else 0
        smallest = power.smallest if power else None
        cells += [f"{power.caught}/{relevant}" if power and relevant else "–"]
        cells += ["–" if smallest is None else f"{smallest:.0e}"]
    return tuple(cells)
