"""A fused convolution, activation and residual add reads its residual operand as if it were dense, and it is not.

Reported in FP16, with TensorRT 11.2.1 on an RTX PRO 6000 Blackwell (NVIDIA/TensorRT#4854, open), and as still there
in 11.3 (a comment of ultralytics/ultralytics#26223). TensorRT lays a tensor that a concatenation reads into the
concatenation's own buffer; a fused layer that reads it there too, as its residual operand, steps through it wrongly.

What is matched, in the shipped graph: an Add of two computed tensors,

- one made from a single convolution by elementwise operators alone, with an activation among them;
- the other read by a Concat too, along any axis but the batch, and that Concat not among what the Add is made from.

So it matches the bottlenecks of C2f and C3k2 blocks (YOLO v8 and later), not an Add without an activation before it
(ShuffleNet v1, MixNet, ResNet) and not a Concat without an Add (SqueezeNet, DenseNet). The shape alone does not decide:
YOLOv10 has it, and the engine of the same release was right (same comment thread).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from deploytool.known_issues.place import Place, Seen

if TYPE_CHECKING:
    import onnx

ISSUE = "NVIDIA/TensorRT#4854"
SEEN: tuple[Seen, ...] = (Seen("tensorrt", since="11.2", mended=None, capabilities=("12.0",)),)

_BENT = {"Clip", "Elu", "HardSigmoid", "HardSwish", "LeakyRelu", "PRelu", "Relu", "Selu"}
_SMOOTH = {"Erf", "Gelu", "Mish", "Sigmoid", "Softplus", "Swish", "Tanh"}
_ACTIVATIONS = _BENT | _SMOOTH
_ELEMENTWISE = _ACTIVATIONS | {"Add", "BatchNormalization", "Cast", "Div", "Identity", "Max", "Min", "Mul", "Sub"}

Makers = Mapping[str, "onnx.NodeProto | None"]  # of the tensors that depend on the inputs; an input has no maker


def find(graph: onnx.GraphProto) -> tuple[Place, ...]:
    """Every place of the graph that has the shape, in its order."""
    makers = _makers(graph)
    concats = [node for node in graph.node if node.op_type == "Concat" and _axis(node) != 0]
    places = []
    for add in graph.node:
        if add.op_type != "Add":
            continue
        for made, operand in (tuple(add.input), tuple(reversed(add.input))):
            convolution = _convolution(made, makers)
            if convolution is None or makers.get(operand) is None:
                continue
            above = _above(add, makers)
            later = [node for node in concats if operand in node.input and node.output[0] not in above]
            if later:
                places.append(Place(add.output[0], (convolution.name, add.name, later[0].name)))
                break
    return tuple(places)


def _makers(graph: onnx.GraphProto) -> Makers:
    weights = {weight.name for weight in graph.initializer}
    makers: dict[str, onnx.NodeProto | None] = {one.name: None for one in graph.input if one.name not in weights}
    for node in graph.node:
        if any(name in makers for name in node.input):
            makers |= dict.fromkeys(node.output, node)
    return makers


def _axis(concat: onnx.NodeProto) -> int:
    return next(int(attribute.i) for attribute in concat.attribute if attribute.name == "axis")


def _convolution(tensor: str, makers: Makers) -> onnx.NodeProto | None:
    """The one convolution that a tensor is an activation of; None if it is something else."""
    left, seen, convolutions, activated = [tensor], set[str](), list["onnx.NodeProto"](), False
    while left:
        name = left.pop()
        if name in seen or name not in makers:  # walked already, or a weight
            continue
        seen.add(name)
        node = makers[name]
        if node is not None and node.op_type == "Conv":
            convolutions.append(node)
        elif node is not None and node.op_type in _ELEMENTWISE:
            activated |= node.op_type in _ACTIVATIONS
            left += node.input
        else:
            return None
    return convolutions[0] if activated and len(convolutions) == 1 else None


def _above(node: onnx.NodeProto, makers: Makers) -> set[str]:
    """Every computed tensor that the node's answer is made from."""
    left, seen = list(node.input), set[str]()
    while left:
        name = left.pop()
        maker = makers.get(name)
        if maker is not None and name not in seen:
            seen.add(name)
            left += maker.input
    return seen
