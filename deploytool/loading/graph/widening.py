"""Turns a graph that computes in FP16 or FP64 into the same graph in FP32, from which the stages make the others."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, numpy_helper

from deploytool.loading.graph import structure

FROM_BFLOAT16 = "export the model in FP32 with model.float(), or convert the file (docs/given-graph.md, BF16)"
HALF, DOUBLE = TensorProto.FLOAT16, TensorProto.DOUBLE
_SINGLE, _FLOATS = TensorProto.FLOAT, (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
_TYPE_ATTRIBUTES = ("to", "dtype")  # integers that are element types


def is_half(model: ModelProto) -> bool:
    """Whether a graph has a tensor in FP16."""
    return _has(model, HALF)


def is_double(model: ModelProto) -> bool:
    """Whether a graph computes in FP64: most of its floating-point constants are FP64, or without any its inputs."""
    sizes = [(tensor.data_type, math.prod(tensor.dims)) for tensor in _tensors(model.graph)]
    floats = [(kind, size) for kind, size in sizes if kind in _FLOATS]
    if floats:
        return bool(2 * sum(size for kind, size in floats if kind == DOUBLE) > sum(size for _, size in floats))
    kinds = {value.type.tensor_type.elem_type for value in structure.inputs(model.graph)}
    return bool(DOUBLE in kinds and not kinds & {*_FLOATS} - {DOUBLE})


def is_bfloat16(model: ModelProto) -> bool:
    """Whether a graph has a tensor in BF16, for which ONNX Runtime has few operators on a CPU."""
    return _has(model, TensorProto.BFLOAT16)


def _has(model: ModelProto, element: int) -> bool:
    return (
        any(value.type.tensor_type.elem_type == element for value in _values(model.graph))
        or any(tensor.data_type == element for tensor in _tensors(model.graph))
        or any(attribute.i == element for attribute in _types(model))
    )


def to_single(model: ModelProto, element: int) -> None:
    """Replaces an element type, `HALF` or `DOUBLE`, by FP32 in place, so that casts to it round no more.

    Weights in FP64 are rounded; those beyond the range of FP32, as of masks, become its largest number.
    """
    for graph in _graphs(model.graph):
        for tensor in _tensors(graph, inner=False):
            if tensor.data_type == element:
                tensor.CopyFrom(numpy_helper.from_array(_rounded(numpy_helper.to_array(tensor)), tensor.name))
        for value in _values(graph, inner=False):
            if value.type.tensor_type.elem_type == element:
                value.type.tensor_type.elem_type = _SINGLE
    for attribute in _types(model):
        if attribute.i == element:
            attribute.i = _SINGLE


def _rounded(array: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """The array in FP32: infinite values stay, and finite ones do not become infinite."""
    largest = np.finfo(np.float32).max
    bounded = np.where(np.isinf(array), array, np.clip(array, -largest, largest))
    return bounded.astype(np.float32).reshape(array.shape)


def _nodes(model: ModelProto) -> Iterator[NodeProto]:
    yield from structure.nodes(model.graph, "the graph")
    for function in model.functions:
        yield from function.node


def _types(model: ModelProto) -> Iterator[AttributeProto]:
    """The attributes that are an element type."""
    for node in _nodes(model):
        yield from (attribute for attribute in node.attribute if attribute.name in _TYPE_ATTRIBUTES)


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    yield graph
    for node in graph.node:
        for inner in structure.bodies(node):
            yield from _graphs(inner)


def _tensors(graph: GraphProto, *, inner: bool = True) -> Iterator[TensorProto]:
    """The initialisers and constants of a graph, and of those inside it."""
    for part in _graphs(graph) if inner else (graph,):
        yield from part.initializer
        for node in part.node:
            yield from (attribute.t for attribute in node.attribute if attribute.type == AttributeProto.TENSOR)


def _values(graph: GraphProto, *, inner: bool = True) -> Iterator[ValueInfoProto]:
    for part in _graphs(graph) if inner else (graph,):
        yield from (*part.input, *part.output, *part.value_info)
