"""Replaces the GlobalAveragePool before a classifier by an AveragePool whose window covers the whole feature map.

Such a window has one position, and its average is the sum over all pixels divided by their number, which defines
GlobalAveragePool. TensorRT-RTX has a kernel for pooling windows; its kernel for the mean over a feature map may need a
transposed input.
"""

from __future__ import annotations

from onnx import NodeProto

from deploytool.rewrites.forms import Outcome
from deploytool.rewrites.graph.editable import EditableGraph

_CLASSIFIERS = ("Gemm", "MatMul")


def apply(graph: EditableGraph) -> Outcome:
    """Replaces every GlobalAveragePool that is flattened for a classifier."""
    applied, skipped = [], []
    for node in [node for node in graph.nodes if node.op_type == "GlobalAveragePool"]:
        size = (graph.shape(node.input[0]) or ())[2:]
        flatten = graph.only_consumer(node.output[0])
        if flatten is None or flatten.op_type != "Flatten" or not _is_classified(graph, flatten):
            skipped.append(f"{node.name}: no classifier reads it")
        elif len(size) != 2 or None in size:
            skipped.append(f"{node.name}: the size of the feature map is unknown")
        else:
            pool = graph.make_node("AveragePool", node, [node.input[0]], node.output[0], kernel_shape=size)
            graph.replace([node], [pool])
            applied.append(pool.name)
    return Outcome(tuple(applied), tuple(skipped) if applied or skipped else ("no GlobalAveragePool is left",))


def _is_classified(graph: EditableGraph, flatten: NodeProto) -> bool:
    """Whether all consumers of a flattened tensor are classifiers."""
    consumers = graph.consumers(flatten.output[0])
    return bool(consumers) and all(consumer.op_type in _CLASSIFIERS for consumer in consumers)
