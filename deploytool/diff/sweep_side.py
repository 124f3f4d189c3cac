"""A sweep as a side of a comparison: its cells are the subjects, matched by name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from deploytool.diff.compare import Side, Value
from deploytool.diff.figures import Figure, sorted_by_quantity
from deploytool.results import sweep as sweeps
from deploytool.results import sweep_figures
from deploytool.results.sweep import CellResult, CellState, Machine

SWEEP = "sweep"


def read(folder: Path) -> Side:
    """The side of a sweep; raises BadInput if its file is of another version."""
    sweep = sweeps.read(folder)
    ended = [result for result in sweep.cells if result.state is not CellState.PENDING]
    machines = {result.cell.name: _hardware(result.machine) for result in ended if result.machine}
    facts = {
        **{f"version of {name}": version for name, version in sweep.versions.items()},
        **{f"option {name}": str(value) for name, value in sweep.options.items()},
    }
    figures = sorted_by_quantity(figure for result in ended for figure in _figures(result))
    names = sorted(set(machines.values()))
    states = {result.cell.name: _state(result) for result in sweep.cells}
    return Side(SWEEP, str(folder), f"{len(sweep.cells)} cells", "; ".join(names), facts, figures, machines, states)


def _hardware(machine: Machine) -> str:
    """What speeds depend on: the processor and the GPUs, for a machine of a cluster may have another name each time."""
    return ", ".join((machine.processor or machine.name, *machine.gpus))


def _state(result: CellResult) -> str:
    """The state of a cell, with the verdict if it failed."""
    if result.state is CellState.FAILED and result.verdict:
        return f"{result.state} ({result.verdict})"
    return str(result.state)


def _figures(result: CellResult) -> Iterator[Figure]:
    """The figures of a cell: those of its fastest file, of the file that ships, and of the largest error."""
    name = result.cell.name
    yield "passed", name, Value(float(result.state is CellState.PASSED))
    if speed := sweep_figures.fastest(result):
        if speed.latency_ms is not None:
            yield "p50", name, Value(speed.latency_ms)
        if speed.ratio is not None:
            yield "speedup", name, Value(speed.ratio, speed.low, speed.high)
    values = {"size": sweep_figures.size(result), "top1": sweep_figures.agreement(result)}
    values["accuracy"] = sweep_figures.accuracy(result)
    if worst := sweep_figures.worst(result):
        values |= {"parity": worst.error, "tolerances": worst.tolerances}
    if drop := sweep_figures.largest_drop(result):
        yield "drop", name, Value(drop.value, drop.low, drop.high)
    for quantity, value in values.items():
        if value is not None:
            yield quantity, name, Value(float(value))
