"""Small graphs for planting faults, and the answers of a graph with a fault."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice

import numpy as np
import onnx
import onnx.parser
from onnx import numpy_helper

from deploytool.backends import onnxruntime
from deploytool.backends.session import Array
from deploytool.faults.kinds.families import Fault, load
from deploytool.faults.kinds.graph import FaultGraph
from tests.conftest import TINY


def graph_of(signature: str, nodes: str, weights: Mapping[str, object], *, opset: int = 20) -> FaultGraph:
    """A graph from onnx.parser's text; `weights` are numbers and arrays, in FP32 unless they are whole."""
    text = f'<ir_version: 11, opset_import: ["" : {opset}]> g {signature} {{ {nodes} }}'
    model = onnx.parser.parse_model(text)
    for name, value in weights.items():
        array = np.asarray(value)
        array = array.astype(np.float32) if array.dtype.kind == "f" else array
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return FaultGraph(model, False, {}, TINY.preprocessing)


def faults_of(graph: FaultGraph, family: str) -> list[Fault]:
    """All faults of a family, which has few on a small graph."""
    return list(islice(load(family).faults(graph, np.random.default_rng(0)), 100))


def the_fault(graph: FaultGraph, family: str, place: str, size: float | None = None) -> Fault:
    """The only fault at a place, of that size if one is given."""
    at_place = [fault for fault in faults_of(graph, family) if place in fault.place]
    (fault,) = [fault for fault in at_place if size is None or np.isclose(fault.size or 0, size)]
    return fault


def answer(graph: FaultGraph, inputs: Mapping[str, Array], fault: Fault | None = None) -> Array:
    """The first output of the graph, with the fault if there is one; planting changes a copy alone."""
    before = graph.model.SerializeToString()
    copy = graph.copy()
    if fault is not None:
        assert fault.same is None
        fault.plant(copy)
        assert graph.model.SerializeToString() == before
    with onnxruntime.start(copy.model.SerializeToString()) as session:
        return next(iter(session(**inputs).values()))
