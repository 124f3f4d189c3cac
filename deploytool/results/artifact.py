"""A file with a past: what it is, who made it, and from what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from deploytool import serde
from deploytool.serde import Json
from deploytool.spec import Stage

Notes = Mapping[str, Json]  # under "remarks", lines that the report repeats
OPTIMISED = "optimised"  # the note of an FP16 graph: whether ONNX Runtime could optimise it
REASON = "reason"  # the note that says why a stage made no file


class Kind(str, Enum):
    """What an artifact is; the value is its file name on disk."""

    WEIGHTS = "weights.safetensors"
    GOLDEN = "golden.npz"
    TORCHSCRIPT = "model.pt"
    GRAPH = "model.onnx"
    PROBES = "probes.npz"
    ENGINE = "model.plan"
    FAULTS = "faults.json"
    REPORT = "report.json"
    BUNDLE = "bundle/manifest.json"


FOR_ENGINE = "engine.onnx"  # beside a graph: the form of it for FP16 and engines, where they want another


def for_engine(graph: Path) -> Path:
    """The form of a graph that FP16 and engines are made from: the file beside it, or else the graph itself."""
    other = graph.with_name(FOR_ENGINE)
    return other if other.is_file() else graph


@dataclass(frozen=True)
class Artifact:
    """One file that a stage made, with its SHA-256, which is empty where it made none.

    It is `fresh` if this run made it; else an earlier run did, and a receipt proves it.
    """

    kind: Kind
    path: Path
    digest: str
    key: str
    made_by: Stage
    notes: Notes
    seconds: float
    fresh: bool

    @property
    def optimised(self) -> bool:
        """Whether ONNX Runtime may optimise it for a CPU, which it does all but the graphs that it crashes on."""
        return self.made_by is not Stage.FP16 or serde.decode(bool, self.notes[OPTIMISED])

    @property
    def left_out(self) -> bool:
        """Whether its stage made no file and the run goes on without it."""
        return not self.digest

    @property
    def reason(self) -> str:
        """Why it was left out, for people; empty where nothing says so."""
        return str(self.notes.get(REASON, ""))
