"""Finds the stages that cells of a sweep share: each group is made once, and the cells begin with its files.

There are two groups. `SOURCE` depends on everything of a cell but its exporter, precision and target; `GRAPH` begins
with the files of `SOURCE` and depends on the exporter too. The rewrite is chosen for the targets, so that it and what
follows belong to one cell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from deploytool import serde
from deploytool.pipeline.export_options import ExportOptions, Io
from deploytool.pipeline.recipe import FP16, ONNX
from deploytool.results.sweep import SHARED, Cell
from deploytool.spec import AUTO, Precision, Stage
from deploytool.sweeps import keys

SOURCE = (Stage.LOAD, Stage.GOLDEN, Stage.TORCHSCRIPT)
GRAPH = (*SOURCE, Stage.EXPORT, Stage.SIMPLIFY)
_WITHOUT_FP16: Mapping[str, Any] = {  # options for what is made after the FP32 graph, as they are without one
    name: getattr(ExportOptions(), name)
    for name in ("trt", "strip_weights", "keep_fp32", "precision", "calibration", "keep", "pack")
}


@dataclass(frozen=True)
class Group:
    """Stages that several cells share: the key, the stages, the export they are part of, and the group before it."""

    key: str
    name: str
    stages: tuple[Stage, ...]
    model: str
    options: ExportOptions
    after: str = ""

    @property
    def folder(self) -> str:
        """The folder of its run, relative to the sweep."""
        return f"{SHARED}/{self.key[:32]}"


@dataclass(frozen=True)
class Shares:
    """The groups by their keys, and the key of the group that each cell begins with; empty for none."""

    groups: Mapping[str, Group]
    first: Mapping[str, str]


def options_of(cell: Cell, shared: ExportOptions) -> ExportOptions:
    """The options of a cell's own export, without its folder; an FP32 cell has none of those for later files."""
    options = replace(
        shared,
        weights=cell.weights or None,
        exporter=cell.exporter,
        to=ONNX if cell.precision is Precision.FP32 else FP16,
        targets=(cell.target,) if cell.target else (),
        batch=shared.batch if cell.batch is None else cell.batch,
        data=cell.data or None,
        quick=cell.quick,
        out=None,
        junit=None,
    )
    if cell.precision is Precision.FP16:
        return options
    return replace(options, io=Io.FP32.value if options.io == Io.FP16 else options.io, **_WITHOUT_FP16)


def is_timed(options: ExportOptions) -> bool:
    """Whether an export measures speed, so that nothing else may run on its machine."""
    return not options.quick if options.seconds is None else options.seconds > 0


def plan(cells: Sequence[Cell], shared: ExportOptions) -> Shares:
    """The groups of the cells.

    A group of one cell is left to the cell, unless the cell is timed: then its stages are made before, beside others.
    """
    graphs: dict[Cell, list[Cell]] = {}
    for cell in cells:
        graphs.setdefault(_graph(cell), []).append(cell)
    sources: dict[Cell, list[Cell]] = {}
    for graph in graphs:
        sources.setdefault(_source(graph), []).append(graph)
    groups: dict[str, Group] = {}
    first: dict[str, str] = {}
    for members in sources.values():
        before = _group(SOURCE, [cell for graph in members for cell in graphs[graph]], shared)
        is_shared = len(members) > 1
        if is_shared:
            groups[before.key] = before
        for graph in members:
            group = _group(GRAPH, graphs[graph], shared)
            if len(graphs[graph]) > 1 or is_timed(group.options):
                groups[group.key] = replace(group, after=before.key if is_shared else "")
                first |= {cell.name: group.key for cell in graphs[graph]}
            elif is_shared:
                first |= {cell.name: before.key for cell in graphs[graph]}
    return Shares(groups, first)


def _graph(cell: Cell) -> Cell:
    """What a cell has in common with those that share its FP32 graph as exported."""
    return replace(cell, name="", precision=Precision.FP16, target="")


def _source(cell: Cell) -> Cell:
    """What a cell has in common with those that share its source."""
    return replace(_graph(cell), exporter=AUTO)


def _group(stages: Sequence[Stage], members: Sequence[Cell], shared: ExportOptions) -> Group:
    """The group of these cells; only FP16 cells have the TorchScript stage, so one of them stands for all."""
    cell = next((cell for cell in members if cell.precision is Precision.FP16), members[0])
    common = replace(_source(cell) if stages == SOURCE else _graph(cell), precision=cell.precision)
    options = replace(options_of(common, shared), trt=False, strip_weights=False)
    key = serde.digest(list(stages), keys.cell_key(common, options))
    title = "source" if stages == SOURCE else "graph"
    return Group(key, f"{cell.model} ({title})", tuple(stages), cell.model, options)
