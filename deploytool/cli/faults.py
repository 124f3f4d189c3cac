"""`deploytool faults`: what the golden cases and tolerances of a run catch, shown by planting faults."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from deploytool.cli import console as cli_console
from deploytool.cli import interrupt, progress, summary
from deploytool.cli.command import Outcome
from deploytool.errors import BadInput, NotVerified
from deploytool.results import report, verdict
from deploytool.results.artifact import Kind, engine_graph
from deploytool.results.faults import CASES, ENGINE, GRAPH, FaultFamily
from deploytool.spec import Precision, Stage

_FRESH = 64  # cases that faults which were not caught are tried on


def faults(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
    faults: Annotated[int, typer.Option(min=1, help="How many faults of each kind.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the faults.")] = 0,
) -> Outcome:
    """Plants faults in the graph that a run ships, and counts how many of them its checks catch.

    Example: deploytool faults artifacts/shufflenet_g3 --faults 50
    """
    from deploytool.pipeline import runner  # here begins numpy

    console, rooms = cli_console.stderr_console(), runner.stage_directories(run)
    kept = {sealed.kind: room / sealed.kind.value for room, sealed in rooms}
    graphs = [(room / Kind.GRAPH.value, sealed) for room, sealed in rooms if sealed.kind is Kind.GRAPH]
    if len(graphs) < 2 or not {Kind.WEIGHTS, Kind.GOLDEN} <= set(kept):
        raise BadInput(f"{run} holds no run with graphs to prove", "give a folder that `deploytool export` made")
    runner.check_source(run, needed=False)

    from deploytool.faults import run as faults_run  # here begins onnx

    (before, _), (graph, sealed) = graphs[-2:]
    wanted = verdict.requested_tolerances(report.read(kept[Kind.REPORT])) if Kind.REPORT in kept else {}
    half = sealed.made_by.precision is Precision.FP16
    subject = faults_run.subject(
        kept[Kind.WEIGHTS], kept[Kind.GOLDEN], engine_graph(before), graph, half=half, wanted=wanted, fresh=_FRESH
    )
    proof = progress.along(console, Stage.FAULTS, lambda watch: faults_run.run(subject, faults, seed, watch))
    failure = None
    if not proof.families:
        failure = NotVerified("the checks fail on the graph as it is", f"find the layer: deploytool blame {run}")
    elif proof.weak:
        with interrupt.sweeping(partial(runner.sweep, run)):
            faults_run.write_helpful_cases(run / CASES, subject, proof)
        remedy = f"export again with --cases {run / CASES}: with these {len(proof.helpful)} all are caught"
        failure = NotVerified(f"the golden cases miss {verdict.missed_line(proof)}", remedy)
    columns = ("fault", ">planted", ">same", ">graph", ">least", ">FP16", ">least")
    rows = [_row(family) for family in proof.families]
    cli_console.table(
        console,
        f"Faults planted in {graph}: those that matter and were caught, and the least error noticed",
        columns,
        rows,
    )
    lines = summary.fault_lines(proof)
    for line in lines:
        cli_console.say(console, line)
    return Outcome({"run": str(run), "faults": proof}, lines[0], failure, next=f"deploytool pack {run}")


def _row(family: FaultFamily) -> tuple[str, ...]:
    cells = [family.name.replace("_", " "), str(family.planted), str(family.equivalent or "")]
    for check in (GRAPH, ENGINE):
        power = family.by_check.get(check)
        matter = power.caught + power.missed if power else 0
        smallest = power.smallest if power else None
        cells += [f"{power.caught}/{matter}" if power and matter else "–"]
        cells += ["–" if smallest is None else f"{smallest:.0e}"]
    return tuple(cells)
