"""Turns a graph that computes in FP16 into the same graph in FP32: the FP16 stage converts it with its own checks."""

from __future__ import annotations

from collections.abc import Iterator

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, numpy_helper

from deploytool.loading.graph import structure

FROM_BFLOAT16 = "export the model in FP32 with model.float(), or convert the file (docs/given-graph.md, BF16)"
_HALF, _SINGLE = TensorProto.FLOAT16, TensorProto.FLOAT
_TYPE_ATTRIBUTES = ("to", "dtype")  # integers that are element types


def is_half(model: ModelProto) -> bool:
    """Whether a graph has a tensor in FP16."""
    return _has(model, _HALF)


def is_bfloat16(model: ModelProto) -> bool:
    """Whether a graph has a tensor in BF16, for which ONNX Runtime has few operators on a CPU."""
    return _has(model, TensorProto.BFLOAT16)


def _has(model: ModelProto, element: int) -> bool:
    return (
        any(value.type.tensor_type.elem_type == element for value in _values(model.graph))
        or any(tensor.data_type == element for tensor in _tensors(model.graph))
        or any(attribute.i == element for attribute in _types(model))
    )


def widen(model: ModelProto) -> None:
    """Replaces FP16 by FP32 in place: weights keep their values, and no cast rounds any more."""
    for graph in _graphs(model.graph):
        for tensor in _tensors(graph, inner=False):
            if tensor.data_type == _HALF:
                name = tensor.name
                tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype("float32"), name))
        for value in _values(graph, inner=False):
            if value.type.tensor_type.elem_type == _HALF:
                value.type.tensor_type.elem_type = _SINGLE
    for attribute in _types(model):
        if attribute.i == _HALF:
            attribute.i = _SINGLE


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
