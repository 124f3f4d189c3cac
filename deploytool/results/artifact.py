"""Data types for the files that the stages of a run make: kind, digest, provenance, and the inputs of a stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from deploytool import serde
from deploytool.serde import Json
from deploytool.spec import Stage

Notes = Mapping[str, Json]  # the list under "remarks" is repeated in the report
OPTIMISED = "optimised"  # note of an FP16 graph: whether ONNX Runtime can optimise it
LIMITS = "limits"  # note of graphs in 8 bits: by file, how far kernels may be from its answers as quantised
REASON = "reason"  # note that says why a stage made no file

PAGE = "report.html"  # file name of the report page in a run folder


class Kind(str, Enum):
    """The kind of an artifact; the value is its file name."""

    WEIGHTS = "weights.safetensors"
    GOLDEN = "golden.npz"
    TORCHSCRIPT = "model.pt"
    GRAPH = "model.onnx"
    RANGES = "ranges.npz"
    BF16_GRAPH = "bf16.onnx"
    INT8_GRAPH = "int8.onnx"
    FP8_GRAPH = "fp8.onnx"
    PROBES = "probes.npz"
    ENGINE = "model.plan"
    FAULTS = "faults.json"
    MEASURES = "measures.json"
    REPORT = "report.json"
    BUNDLE = "bundle/manifest.json"


ENGINE_RANGES = "engine_ranges.npz"  # optional files beside ranges: those of the form that engines are made from,
OPENVINO_RANGES = "openvino_ranges.npz"  # and of the one that is fastest in OpenVINO in INT8
ENGINE_GRAPH = "engine.onnx"  # optional file beside a graph: the form that FP16 and engines are made from

BF16_NOISE = "noise.npz"  # file beside a BF16 graph: what the golden data is in BF16, the noise and the ties
OPENVINO_GRAPH = "openvino.onnx"  # optional file beside a graph: the form that is fastest in OpenVINO
VARIANTS = (ENGINE_GRAPH, OPENVINO_GRAPH)  # files that are named where the stage alone stands for its own graph
ANSWERS: Mapping[str, str] = {
    Kind.INT8_GRAPH.value: "int8_answers.npz",
    ENGINE_GRAPH: "engine_answers.npz",
    OPENVINO_GRAPH: "openvino_answers.npz",
    Kind.FP8_GRAPH.value: "fp8_answers.npz",
}  # files beside graphs in 8 bits, by the name of the graph: what each answers as quantised


def openvino_graph(graph: Path) -> Path | None:
    """The form of a graph that is faster in OpenVINO; None if the graph itself is the best for it."""
    variant = graph.with_name(OPENVINO_GRAPH)
    return variant if variant.is_file() else None


def engine_graph(graph: Path) -> Path:
    """The graph that FP16 and engines are made from: `engine.onnx` beside `graph` if there is one, else `graph`."""
    variant = graph.with_name(ENGINE_GRAPH)
    return variant if variant.is_file() else graph


@dataclass(frozen=True)
class Artifact:
    """A file made by a stage, with its SHA-256 (empty if the stage made no file), provenance and duration.

    `fresh` is true if this run made the file, and false if a receipt allowed to reuse the file of an earlier run.
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
        """Whether ONNX Runtime may optimise the file for a CPU; false only for FP16 graphs that crash its optimiser."""
        return self.made_by is not Stage.FP16 or serde.decode(bool, self.notes[OPTIMISED])

    @property
    def left_out(self) -> bool:
        """Whether the stage made no file and the run continues without it."""
        return not self.digest

    @property
    def reason(self) -> str:
        """Why the stage made no file, as text for people; empty if no reason was recorded."""
        return str(self.notes.get(REASON, ""))
