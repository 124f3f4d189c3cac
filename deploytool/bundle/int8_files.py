"""Writes the INT8 graphs of a run into a bundle, with their golden answers, and the manifest entries of graphs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from deploytool import serde
from deploytool.bundle import int8_choice
from deploytool.bundle.int8 import X86_FEATURES, Choice, Int8Graph, Why
from deploytool.bundle.manifest import Graph
from deploytool.data import golden
from deploytool.results.artifact import ENGINE_ANSWERS, ENGINE_GRAPH, INT8_ANSWERS, LIMITS, Artifact
from deploytool.results.int8 import Int8
from deploytool.results.int8_forms import Form
from deploytool.results.report import Limits, Report
from deploytool.rewrites.graph import storage
from deploytool.spec import Precision

ENGINE_PATH = "engines/int8.onnx"  # it is for TensorRT alone, and so no model of the Triton repository
_STANDARD = ("", "ai.onnx")  # domains of the standard operators
_ANSWERS, _ENGINE_ANSWERS = "golden/int8.npz", "golden/int8_engine.npz"


@dataclass(frozen=True)
class Int8Files:
    """What a bundle has of INT8: its graphs, their golden answers, and the choice of each runtime."""

    graphs: tuple[Graph, ...] = ()
    int8: tuple[Int8Graph, ...] = ()
    choices: Mapping[str, Choice] = field(default_factory=dict)


def graph_entry(source: Path, path: str, precision: Precision, io: Precision = Precision.FP32) -> Graph:
    """The manifest entry of a graph, without the memory that it needs."""
    written = storage.load_structure(source)
    opset = max(entry.version for entry in written.opset_import if entry.domain in _STANDARD)
    return Graph(path, precision, io, written.ir_version, opset)


def write(folder: Path, path: str, artifact: Artifact, result: Report, cases: int) -> Int8Files:
    """Writes the INT8 graphs that the report allows: to `path` the one for CPUs, if a runtime is to have it.

    The one for engines is written if it is not worse as quantised. `cases` is the number of golden cases.
    """
    limits = serde.decode(dict[str, Limits], artifact.notes.get(LIMITS, {}))
    forms = {graph.file: graph.form for graph in serde.decode(Int8, artifact.notes["int8"]).graphs}
    choices = int8_choice.for_cpu(result)
    places: list[tuple[str, str, str, str]] = []
    if artifact.path.name in limits and any(choice.path for choice in choices.values()):
        places.append((artifact.path.name, path, INT8_ANSWERS, _ANSWERS))
    if ENGINE_GRAPH in limits and int8_choice.engine_graph_holds(result, ENGINE_GRAPH):
        places.append((ENGINE_GRAPH, ENGINE_PATH, ENGINE_ANSWERS, _ENGINE_ANSWERS))
    graphs, int8 = list[Graph](), list[Int8Graph]()
    for file, to, answers, answers_to in places:
        source, form = artifact.path.with_name(file), Form(forms[file])
        (folder / to).parent.mkdir(parents=True, exist_ok=True)
        storage.copy(source, folder / to)
        recorded = golden.read_answers(artifact.path.with_name(answers))
        golden.write_answers(folder / answers_to, {name: array[:cases] for name, array in recorded.items()})
        graphs.append(graph_entry(source, to, Precision.INT8))
        int8.append(Int8Graph(to, form, X86_FEATURES[form], answers_to, limits[file]))
    if not any(graph.path == path for graph in graphs):
        return Int8Files(tuple(graphs), tuple(int8), {name: _unproved(each) for name, each in choices.items()})
    packed = {name: replace(each, path=path if each.path else "") for name, each in choices.items()}
    return Int8Files(tuple(graphs), tuple(int8), packed)


def _unproved(choice: Choice) -> Choice:
    """The choice where no device could prove the graph, which therefore is not in the bundle."""
    return Choice("", Why.NOT_MEASURED, choice.gain) if choice.path else choice
