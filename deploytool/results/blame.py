"""Reads and writes blame.json: the error of every layer, and the first comparison and layer that deviate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deploytool import serde
from deploytool.host import files
from deploytool.results import receipt
from deploytool.results.artifact import Kind
from deploytool.results.report import Check
from deploytool.spec import Stage

SCHEMA = "deploytool.blame/1"
FILE = "blame.json"


@dataclass(frozen=True)
class Layer:
    """One tensor of a graph: its largest error (None if unknown) and the error that rounding alone explains."""

    module: str
    tensor: str
    node: str
    op: str
    error: float | None
    noise_floor: float


@dataclass(frozen=True)
class BlamedGraph:
    """A graph compared with the graph before (eager, for the first) and the FP64 source; its layers in graph order."""

    stage: Stage
    checks: tuple[Check, ...]
    layers: tuple[Layer, ...]


@dataclass(frozen=True)
class Finding:
    """The first comparison that deviates, its first deviating layer, and the worst of that layer's inputs.

    `module` is the module of the source model to look at: the layer's own or, if `lost` is true, that of a tensor in
    the graph before which feeds the layer and is missing in this graph. `layer` is None if no tensor exceeds its noise
    floor: then the whole arithmetic, or ONNX Runtime's optimiser, exceeds the tolerance.
    """

    stage: Stage
    against: str
    module: str
    lost: bool
    layer: Layer | None
    worst_input: Layer | None


@dataclass(frozen=True)
class Blame:
    """All compared graphs of a run, the cases that were used, and the finding, if a comparison deviates.

    Cases are numbered through the golden cases first and the edge cases after them.
    """

    comparisons: tuple[BlamedGraph, ...]
    cases: tuple[int, ...]
    finding: Finding | None


@dataclass(frozen=True)
class StoredBlame:
    """The content of blame.json: the result, and by stage the SHA-256 of every graph that it is about."""

    schema: str
    graphs: Mapping[str, str]
    blame: Blame


def write(run: Path, graphs: Mapping[str, str], blame: Blame) -> None:
    """Writes blame.json into a run's folder, atomically."""
    files.publish(run / FILE, serde.text(StoredBlame(SCHEMA, graphs, blame)).encode())


def read(run: Path) -> Blame | None:
    """The stored result for the present graphs of a run; None if there is none or it is about other graphs."""
    try:
        stored = serde.read(StoredBlame, run / FILE)
    except (OSError, serde.Malformed):
        return None
    return stored.blame if stored.schema == SCHEMA and dict(stored.graphs) == graph_digests(run) else None


def graph_digests(run: Path) -> dict[str, str]:
    """By stage, the SHA-256 of every graph of a run, from the receipts."""
    receipts = {path.parent.name: receipt.read(path.parent) for path in run.glob(f"*/{receipt.FILE}")}
    return {
        stage: record.files.get(Kind.GRAPH.value, "")
        for stage, record in receipts.items()
        if record and record.kind is Kind.GRAPH
    }
