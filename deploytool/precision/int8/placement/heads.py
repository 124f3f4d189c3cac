"""The last convolutions of detectors and segmenters, which predict boxes and classes at every position.

A box needs more than 256 steps, and its convolution is small. A convolution whose results are pooled first, as the
last of SqueezeNet, is no head.
"""

from __future__ import annotations

from onnx import NodeProto

from deploytool.precision.int8.placement import weighted
from deploytool.results.int8_forms import Form
from deploytool.rewrites.graph.editable import EditableGraph

_POOLING = ("GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax", "AveragePool", "MaxPool")


def allows(node: NodeProto, graph: EditableGraph, form: Form) -> bool:
    """Whether a node is no convolution, or another heavy node or a pooling comes before every output."""
    return node.op_type != "Conv" or not _reaches_output(node, graph, form)


def _reaches_output(node: NodeProto, graph: EditableGraph, form: Form) -> bool:
    pending, seen = [node], set[str]()
    while pending:
        for name in pending.pop().output:
            if name in graph.outputs:
                return True
            if name not in seen:
                seen.add(name)
                pending += [after for after in graph.consumers(name) if not _ends(after, graph, form)]
    return False


def _ends(node: NodeProto, graph: EditableGraph, form: Form) -> bool:
    return node.op_type in _POOLING or weighted.allows(node, graph, form)
