"""Finds residual adds whose operand is also concatenated: TensorRT reads that operand with wrong strides.

Reported in FP16, with TensorRT 11.2.1 on an RTX PRO 6000 Blackwell (NVIDIA/TensorRT#4854, open), and as still present
in 11.3 (a comment of ultralytics/ultralytics#26223). TensorRT writes a tensor that a concatenation reads directly into
the concatenation's buffer. A layer that fuses convolution, activation and residual add, and reads its residual operand
from that buffer, uses the strides of a dense tensor.

The pattern, in the shipped graph, is an Add of two computed tensors:

- one is the output of a single convolution after elementwise operators alone, with an activation among them;
- the other is also an input of a Concat along any axis but the batch, and the Add does not depend on that Concat.

So it matches the bottlenecks of C2f and C3k2 blocks (YOLO v8 and later), not an Add without an activation before it
(ShuffleNet v1, MixNet, ResNet) and not a Concat without an Add (SqueezeNet, DenseNet). A match is not always compiled
wrongly: YOLOv10 matches, and its engine of the same release was correct (same comment thread).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploytool.known_issues import dataflow
from deploytool.known_issues.dataflow import Producers
from deploytool.known_issues.place import AffectedReleases, Place

if TYPE_CHECKING:
    import onnx

ISSUE = "NVIDIA/TensorRT#4854"
AFFECTED: tuple[AffectedReleases, ...] = (
    AffectedReleases("tensorrt", since="11.2", fixed_in=None, capabilities=("12.0",)),
)
WORKAROUND: str | None = None
MOST_PROBES: int | None = None

_PIECEWISE = {"Clip", "Elu", "HardSigmoid", "HardSwish", "LeakyRelu", "PRelu", "Relu", "Selu"}
_SMOOTH = {"Erf", "Gelu", "Mish", "Sigmoid", "Softplus", "Swish", "Tanh"}
_ACTIVATIONS = _PIECEWISE | _SMOOTH
_ELEMENTWISE = _ACTIVATIONS | {"Add", "BatchNormalization", "Cast", "Div", "Identity", "Max", "Min", "Mul", "Sub"}


def find(graph: onnx.GraphProto) -> tuple[Place, ...]:
    """Every match in the graph, in graph order."""
    producers = dataflow.producers(graph)
    concats = [node for node in graph.node if node.op_type == "Concat" and _axis(node) != 0]
    places = []
    for add in graph.node:
        if add.op_type != "Add":
            continue
        for fused, residual in (tuple(add.input), tuple(reversed(add.input))):
            convolution = _convolution(fused, producers)
            if convolution is None or producers.get(residual) is None:
                continue
            ancestors = _ancestors(add, producers)
            later = [node for node in concats if residual in node.input and node.output[0] not in ancestors]
            if later:
                places.append(Place(add.output[0], (convolution.name, add.name, later[0].name)))
                break
    return tuple(places)


def _axis(concat: onnx.NodeProto) -> int:
    return next(int(attribute.i) for attribute in concat.attribute if attribute.name == "axis")


def _convolution(tensor: str, producers: Producers) -> onnx.NodeProto | None:
    """The convolution of which a tensor is the activation; None for any other tensor."""
    pending, visited, convolutions, is_activated = [tensor], set[str](), list["onnx.NodeProto"](), False
    while pending:
        name = pending.pop()
        if name in visited or name not in producers:  # a tensor not in `producers` is a weight
            continue
        visited.add(name)
        node = producers[name]
        if node is not None and node.op_type == "Conv":
            convolutions.append(node)
        elif node is not None and node.op_type in _ELEMENTWISE:
            is_activated |= node.op_type in _ACTIVATIONS
            pending += node.input
        else:
            return None
    return convolutions[0] if is_activated and len(convolutions) == 1 else None


def _ancestors(node: onnx.NodeProto, producers: Producers) -> set[str]:
    """Every computed tensor that the node depends on."""
    pending, visited = list(node.input), set[str]()
    while pending:
        name = pending.pop()
        producer = producers.get(name)
        if producer is not None and name not in visited:
            visited.add(name)
            pending += producer.input
    return visited
