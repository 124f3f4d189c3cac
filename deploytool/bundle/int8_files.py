"""Writes the graphs in INT8 and FP8 of a run into a bundle, with their golden answers, and the entries of graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from deploytool import serde
from deploytool.bundle import int8_choice
from deploytool.bundle.int8 import X86_FEATURES, Choice, Int8Corner, Int8Graph, Why
from deploytool.bundle.manifest import Graph
from deploytool.data import golden
from deploytool.results.artifact import ANSWERS, ENGINE_GRAPH, LIMITS, OPENVINO_GRAPH, Artifact, Kind
from deploytool.results.int8 import Int8
from deploytool.results.int8_forms import Form
from deploytool.results.report import Limits, Report
from deploytool.rewrites.graph import storage
from deploytool.spec import Precision, Stage

ENGINE_PATH, _FP8_PATH = "engines/int8.onnx", "engines/fp8.onnx"  # for one runtime, and so no Triton models
_OPENVINO_PATH = "openvino/int8.onnx"
_ANSWERS: Mapping[str, str] = {
    Kind.INT8_GRAPH.value: "golden/int8.npz",
    ENGINE_GRAPH: "golden/int8_engine.npz",
    OPENVINO_GRAPH: "golden/int8_openvino.npz",
    Kind.FP8_GRAPH.value: "golden/fp8.npz",
}  # golden answers as quantised, by the file of the graph in the run
_STANDARD = ("", "ai.onnx")  # domains of the standard operators

CornerAnswers = Callable[[Path], Iterable[Int8Corner]]  # by the graph in the run


@dataclass(frozen=True)
class Int8Files:
    """What a bundle has of INT8 and FP8: its graphs, their golden answers, and the choice of INT8 of each runtime."""

    graphs: tuple[Graph, ...] = ()
    int8: tuple[Int8Graph, ...] = ()
    choices: Mapping[str, Choice] = field(default_factory=dict)


def graph_entry(source: Path, path: str, precision: Precision, io: Precision = Precision.FP32) -> Graph:
    """The manifest entry of a graph, without the memory that it needs."""
    written = storage.load_structure(source)
    opset = max(entry.version for entry in written.opset_import if entry.domain in _STANDARD)
    return Graph(path, precision, io, written.ir_version, opset)


def write(folder: Path, path: str, artifact: Artifact, result: Report, cases: int, corners: CornerAnswers) -> Int8Files:
    """Writes the INT8 graphs that the report allows: those that a runtime is to have, to `path` the one for any.

    The one for engines is written if it is not worse as quantised. `cases` is the number of golden cases;
    `corners` copies the answers of a graph at the corners.
    """
    limits = serde.decode(dict[str, Limits], artifact.notes.get(LIMITS, {}))
    forms = {graph.file: graph.form for graph in serde.decode(Int8, artifact.notes["int8"]).graphs}
    choices = int8_choice.for_cpu(result)
    wanted = {choice.path for choice in choices.values()}
    if int8_choice.engine_graph_holds(result, Stage.INT8, ENGINE_GRAPH):
        wanted.add(ENGINE_GRAPH)
    places = {artifact.path.name: path, ENGINE_GRAPH: ENGINE_PATH, OPENVINO_GRAPH: _OPENVINO_PATH}
    packed = {file: to for file, to in places.items() if file in wanted and file in limits}
    written = [
        _write(folder, to, artifact.path.with_name(file), Form(forms[file]), limits[file], cases, corners)
        for file, to in packed.items()
    ]
    own = {name: _of_bundle(each, packed) for name, each in choices.items()}
    return Int8Files(tuple(graph for graph, _ in written), tuple(int8 for _, int8 in written), own)


def write_fp8(folder: Path, artifact: Artifact, result: Report, cases: int, corners: CornerAnswers) -> Int8Files:
    """Writes the FP8 graph, from which devices build engines, if it is not worse as quantised."""
    limits, file = serde.decode(dict[str, Limits], artifact.notes.get(LIMITS, {})), artifact.path.name
    if file not in limits or not int8_choice.engine_graph_holds(result, Stage.FP8, file):
        return Int8Files()
    graph, fp8 = _write(folder, _FP8_PATH, artifact.path, Form.E4M3, limits[file], cases, corners)
    return Int8Files((graph,), (fp8,))


def _write(
    folder: Path, to: str, source: Path, form: Form, limits: Limits, cases: int, corners: CornerAnswers
) -> tuple[Graph, Int8Graph]:
    """Writes a graph to a path in the bundle, with the golden answers beside it in the run, and its entries."""
    (folder / to).parent.mkdir(parents=True, exist_ok=True)
    storage.copy(source, folder / to)
    recorded, answers = golden.read_answers(source.with_name(ANSWERS[source.name])), _ANSWERS[source.name]
    golden.write_answers(folder / answers, {name: array[:cases] for name, array in recorded.items()})
    entry = Int8Graph(to, form, X86_FEATURES[form], answers, limits, tuple(corners(source)))
    return graph_entry(source, to, entry.precision), entry


def _of_bundle(choice: Choice, packed: Mapping[str, str]) -> Choice:
    """The choice with the path in the bundle; a graph that no device could prove is not there."""
    if not choice.path:
        return choice
    path = packed.get(choice.path, "")
    return replace(choice, path=path) if path else Choice("", Why.NOT_MEASURED, choice.gain)
