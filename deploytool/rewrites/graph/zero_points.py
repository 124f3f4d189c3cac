"""Writes the zero points that weights with a scale for each channel or block may leave out, where it is 0.

ONNX Runtime 1.31 cannot run such a graph with the entry that prevents saturation of INT8 on x86 processors without
VNNI: it makes the weights unsigned, and gives them one zero point for all channels.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto

from deploytool.rewrites.graph.editable import EditableGraph, attributes


def written(model: ModelProto) -> ModelProto:
    """The graph with these zero points, which computes the same; the graph itself if none is left out."""
    graph = EditableGraph(model)
    lacking = [node for node in graph.nodes if _lacks(graph, node)]
    for node in lacking:
        codes, scale = graph.constant(node.input[0]), graph.constant(node.input[1])
        assert codes is not None
        assert scale is not None
        zero = graph.add_weight(f"{node.output[0]}/zero", np.zeros(scale.shape, codes.dtype))
        settings = {name: value for name, value in attributes(node).items() if value is not None}
        inputs = [*node.input[:2], zero]
        graph.replace([node], [graph.make_node(node.op_type, node, inputs, node.output[0], **settings)])
    return graph.to_model() if lacking else model


def _lacks(graph: EditableGraph, node: NodeProto) -> bool:
    """Whether a node dequantises weights of 8 bits by channel or in blocks without a zero point."""
    if node.op_type != "DequantizeLinear" or (len(node.input) > 2 and node.input[2]):
        return False
    codes, scale = graph.constant(node.input[0]), graph.constant(node.input[1])
    return codes is not None and codes.dtype.itemsize == 1 and scale is not None and scale.size > 1
