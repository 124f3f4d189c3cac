"""A bundle with INT8: that of the tiny model with INT8 graphs of its FP32 graph, said to be faster and not worse."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import onnx

from deploytool import runtimes
from deploytool.bundle import int8_files
from deploytool.bundle.int8 import X86_FEATURES, Choice, Int8Graph, Why
from deploytool.bundle.manifest import Role, describe_file, read_manifest, schema_of, write_manifest
from deploytool.data import golden
from deploytool.parity import int8_answers
from deploytool.precision.int8 import calibration, quantize
from deploytool.precision.int8.calibration import Method
from deploytool.results.int8_forms import Form
from deploytool.results.report import Gain
from deploytool.spec import Precision

CPU_GRAPH, ENGINE_GRAPH = "models/tiny_int8/1/model.onnx", "engines/int8.onnx"
GAIN = Gain(1.5, 1.4, 1.6)


def make(packed: Path, folder: Path, form: Form) -> Path:
    """A copy of the bundle with an INT8 graph of this form, and one for engines."""
    shutil.copytree(packed, folder)
    manifest = read_manifest(folder)
    source = onnx.load(folder / manifest.graphs[0].path)
    sample = golden.read(folder / manifest.golden.path)
    tensors = {name for each in (form, Form.TENSORRT) for name in quantize.activations(source, each)}
    table = calibration.collect(source, sorted(tensors), [sample.inputs])
    graphs, int8 = list(manifest.graphs), []
    for each, path, answers in (
        (form, CPU_GRAPH, "golden/int8.npz"),
        (Form.TENSORRT, ENGINE_GRAPH, "golden/engine.npz"),
    ):
        ranges = table.ranges(Method.MIN_MAX, symmetric=each is Form.TENSORRT)
        graph = quantize.quantize(source, ranges, each)
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        onnx.save(graph, folder / path)
        recorded = int8_answers.record(graph, sample.inputs)
        golden.write_answers(folder / answers, recorded)
        limits = int8_answers.limits(graph, recorded, sample)
        int8.append(Int8Graph(path, each, X86_FEATURES[each], answers, limits))
        graphs.append(replace(int8_files.graph_entry(folder / path, path, Precision.INT8), memory_mib=256))
    roles = {graph.path: Role.GRAPH for graph in int8} | {graph.answers: Role.GOLDEN for graph in int8}
    more = tuple(describe_file(folder, path, role) for path, role in roles.items())
    choice = Choice(CPU_GRAPH, Why.FASTER, GAIN)
    changed = replace(
        manifest,
        schema=schema_of(graphs, manifest.engines, manifest.corners),
        graphs=tuple(graphs),
        files=tuple(sorted((*manifest.files, *more), key=lambda file: file.path)),
        int8=tuple(int8),
        int8_for={runtimes.ORT: choice, runtimes.OPENVINO: choice},
    )
    write_manifest(folder, changed)
    return folder


def put(folder: Path, graph: bytes) -> None:
    """Replaces the graph for CPUs, with a digest that fits."""
    (folder / CPU_GRAPH).write_bytes(graph)
    manifest = read_manifest(folder)
    files = tuple(describe_file(folder, file.path, file.role) for file in manifest.files)
    write_manifest(folder, replace(manifest, files=files))
