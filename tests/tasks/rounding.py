"""Other orders of the sums of a graph: correct rewrites whose answers differ by rounding alone."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

ELEMENTWISE = ("Relu", "Cast")


def permute_sums(model: onnx.ModelProto, rng: np.random.Generator) -> int:
    """Reorders the channels between convolutions; returns how many tensors were reordered."""
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    changed = 0
    for node in graph.node:
        consumers = _convolutions_after(graph, node.output[0]) if node.op_type == "Conv" else []
        if not consumers or any(name not in weights for conv in (node, *consumers) for name in conv.input[1:]):
            continue
        channels = weights[node.input[1]].dims[0]
        order = rng.permutation(channels)
        for name in node.input[1:]:
            _reorder(weights[name], order, axis=0)
        for consumer in consumers:
            _reorder(weights[consumer.input[1]], order, axis=1)
        changed += 1
    return changed


def _convolutions_after(graph: onnx.GraphProto, tensor: str) -> list[onnx.NodeProto]:
    """The convolutions that read a tensor, also through elementwise nodes; none if anything else reads it."""
    found: list[onnx.NodeProto] = []
    for node in graph.node:
        if tensor not in node.input:
            continue
        if node.op_type in ELEMENTWISE:
            after = _convolutions_after(graph, node.output[0])
            if not after:
                return []
            found += after
        elif node.op_type == "Conv" and node.input[0] == tensor:
            found.append(node)
        else:
            return []
    return found


def _reorder(tensor: onnx.TensorProto, order: np.ndarray, axis: int) -> None:
    values = numpy_helper.to_array(tensor).take(order, axis)
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), tensor.name))
