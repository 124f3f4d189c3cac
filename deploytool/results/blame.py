"""What `blame` found, as it lies beside a run: every layer's error, and which layer of which graph strayed first."""

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
    """One tensor of a graph; `error` is None where nothing is known of it."""

    module: str
    tensor: str
    node: str
    op: str
    error: float | None
    floor: float


@dataclass(frozen=True)
class TracedGraph:
    """One graph against the one before (eager, for the first) and the FP64 source, and all its layers in order."""

    stage: Stage
    checks: tuple[Check, ...]
    layers: tuple[Layer, ...]


@dataclass(frozen=True)
class Finding:
    """The first comparison that deviates, its first layer that does, and the worst layer that this one is made from.

    `module` is where to look: the layer's own, or, if something is `lost`, that of a tensor which the layer is made
    from in the graph before and which is not in this one. There is no layer if no tensor leaves its noise floor: then
    the arithmetic itself is beyond the tolerance, or what ONNX Runtime's optimiser makes of it.
    """

    stage: Stage
    against: str
    module: str
    lost: bool
    layer: Layer | None
    before: Layer | None


@dataclass(frozen=True)
class Blame:
    """Every comparison of a run, the cases that were followed, and the finding, if any comparison strays.

    Cases are counted through the golden ones and then the edges.
    """

    comparisons: tuple[TracedGraph, ...]
    cases: tuple[int, ...]
    finding: Finding | None


@dataclass(frozen=True)
class StoredBlame:
    """What was found, and the SHA-256 of every graph it was found in, by stage."""

    schema: str
    graphs: Mapping[str, str]
    blame: Blame


def write(run: Path, graphs: Mapping[str, str], blame: Blame) -> None:
    """Leaves what was found in the run's folder, as a whole or not at all."""
    files.publish(run / FILE, serde.text(StoredBlame(SCHEMA, graphs, blame)).encode())


def read(run: Path) -> Blame | None:
    """What was found in the graphs that a run now has; None if nobody looked, or looked at other graphs."""
    try:
        kept = serde.read(StoredBlame, run / FILE)
    except (OSError, serde.Malformed):
        return None
    return kept.blame if kept.schema == SCHEMA and dict(kept.graphs) == _graphs(run) else None


def _graphs(run: Path) -> dict[str, str]:
    """The digest of every graph of a run, as its stage sealed it."""
    sealed = {path.parent.name: receipt.read(path.parent) for path in run.glob(f"*/{receipt.FILE}")}
    name = Kind.GRAPH.value
    return {verb: each.files.get(name, "") for verb, each in sealed.items() if each and each.kind is Kind.GRAPH}
