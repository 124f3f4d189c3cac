"""The FP32 graph behind a graph with Q/DQ nodes, as one from training with quantisation has them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import NodeProto

from deploytool.rewrites.graph.editable import Array, EditableGraph, attributes

_DQ, _Q = "DequantizeLinear", "QuantizeLinear"


def strip(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph without its pairs of Q and DQ nodes; quantised weights are what their integers stand for.

    A DQ node that reads anything else stays, and so does a Q node whose integers something else reads. The outputs keep
    their names.
    """
    graph = EditableGraph(model)
    sources: dict[str, str] = {}
    kept = list[NodeProto]()
    for node in graph.nodes:
        source = _source(graph, node)
        if source is None:
            copy = NodeProto()
            copy.CopyFrom(node)
            copy.input[:] = [sources.get(name, name) for name in node.input]
            kept.append(copy)
            continue
        sources[node.output[0]] = sources.get(source, source)
        if node.output[0] in graph.outputs:
            kept.append(graph.make_node("Identity", node, [sources[node.output[0]]], node.output[0]))
    graph.replace(graph.nodes, kept)
    return graph.to_model()


def _source(graph: EditableGraph, node: NodeProto) -> str | None:
    """The FP32 tensor that a DQ node stands for, a new weight for constant integers; None for any other node."""
    if node.op_type != _DQ:
        return None
    quantizer = graph.producer(node.input[0])
    if quantizer is not None and quantizer.op_type == _Q:
        return str(quantizer.input[0])
    scale, codes = graph.constant(node.input[1]), graph.constant(node.input[0])
    if scale is None or codes is None or attributes(node).get("block_size", 0):
        return None
    zero = graph.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros((), codes.dtype)
    return None if zero is None else graph.add_weight(f"{node.output[0]}_fp32", _reals(codes, scale, zero, node))


def _reals(codes: Array, scale: Array, zero: Array, node: NodeProto) -> Array:
    """What integers stand for, with one scale for all or for each slice along the axis of the node."""
    settings: Mapping[str, int] = attributes(node)
    shape = [-1 if dim == settings.get("axis", 1) % max(1, codes.ndim) else 1 for dim in range(codes.ndim)]
    along = (each.reshape(shape) if each.size > 1 else each.reshape(()) for each in (scale, zero))
    factor, offset = along
    return ((codes.astype(np.int32) - offset.astype(np.int32)) * factor).astype(scale.dtype)
