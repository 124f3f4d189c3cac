"""Concats whose inputs and output share one scale, so that they only copy.

In ONNX Runtime SqueezeNet 1.1 and MixNet-S take 1.04 times as long with scales apart (AVX2, one thread). TensorRT moves
a quantization before the Concat, which takes one scale. A Concat that Relu or Clip follows keeps its scales apart on a
CPU: with the scale of inputs that can be negative, the activation would not be part of it but run in FP32.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from onnx import NodeProto

from deploytool.precision.int8.placement import carriers
from deploytool.rewrites.graph.editable import EditableGraph


def sharing(nodes: Collection[NodeProto], graph: EditableGraph) -> Iterator[tuple[str, str]]:
    """Pairs of an input and the output of every Concat among the nodes."""
    for node in nodes:
        if node.op_type == "Concat":
            for name in carriers.activations(node, graph):
                yield name, node.output[0]
