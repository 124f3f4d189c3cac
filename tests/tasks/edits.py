"""Faults of detectors and segmenters as edits of an ONNX graph, in code that shares nothing with deploytool.

The graphs are those of detector.py and segmenter.py with inputs and outputs in FP32. A fault has strengths where it
makes sense; one without has the single strength 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

Array = npt.NDArray[Any]
Edit = Callable[[onnx.ModelProto, float], None]
Step = tuple[str, Sequence[Array], Mapping[str, Any]]  # an operator, its constant inputs and its attributes

INPUT, BOXES, SCORES, LABELS, LOGITS = "image", "boxes", "scores", "labels", "logits"
STRIDE = 8
WIDTH_AND_HEIGHT = np.array([[1, 0, -1, 0], [0, 1, 0, -1], [0, 0, 1, 0], [0, 0, 0, 1]], np.float32)


@dataclass(frozen=True)
class Fault:
    """A kind of fault: how it is planted, in the graphs of which models, and its strengths."""

    plant: Edit
    models: tuple[str, ...]
    strengths: tuple[float, ...] = (1.0,)


def _constant(model: onnx.ModelProto, array: Array) -> str:
    name = f"fault_{len(model.graph.initializer)}"
    model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
    return name


def _after(model: onnx.ModelProto, tensor: str, steps: Sequence[Step]) -> None:
    """Makes all consumers of `tensor` read it after `steps`."""
    sound, graph = f"{tensor}_sound", model.graph
    producer = next((node for node in graph.node if tensor in node.output), None)
    if producer is None:  # an input of the graph
        made, source = f"{tensor}_faulty", tensor
        _rename(graph.node, "input", tensor, made)
        position = 0
    else:
        made, source = tensor, sound
        position = list(graph.node).index(producer) + 1
        _rename([producer], "output", tensor, sound)
    for number, (operator, constants, attributes) in enumerate(steps):
        result = made if number == len(steps) - 1 else f"{tensor}_step_{number}"
        inputs = [source, *(_constant(model, constant) for constant in constants)]
        graph.node.insert(position + number, helper.make_node(operator, inputs, [result], **attributes))
        source = result


def _rename(nodes: Sequence[onnx.NodeProto], side: str, old: str, new: str) -> None:
    for node in nodes:
        names = getattr(node, side)
        names[:] = [new if name == old else name for name in names]


def _cells(model: onnx.ModelProto) -> str:
    """The tensor with the boxes of all cells: what the detector selects from, or an output of `heads`."""
    producers = {name: node for node in model.graph.node for name in node.output}
    node = producers[BOXES]
    while node.op_type == "Cast":
        node = producers[node.input[0]]
    return node.input[0] if node.op_type == "GatherElements" else BOXES


def _map_boxes(model: onnx.ModelProto, matrix: Array, offset: Array) -> None:
    steps: list[Step] = [("MatMul", [matrix.astype(np.float32)], {}), ("Add", [offset.astype(np.float32)], {})]
    _after(model, BOXES, steps)


def shift_boxes(model: onnx.ModelProto, pixels: float) -> None:
    """Boxes from the corner of a pixel in place of its centre: all are moved."""
    _map_boxes(model, np.eye(4), np.full(4, pixels))


def corner_and_size(model: onnx.ModelProto, strength: float) -> None:
    """x1, y1, width and height in place of two corners."""
    _map_boxes(model, np.eye(4) + strength * (WIDTH_AND_HEIGHT - np.eye(4)), np.zeros(4))


def wrong_stride(model: onnx.ModelProto, factor: float) -> None:
    """Coordinates in cells of another size: all are multiplied."""
    _map_boxes(model, np.eye(4) * (1 + factor), np.zeros(4))


def cell_order(model: onnx.ModelProto, share: float) -> None:
    """Boxes of cells in another order than their scores: pairs of neighbouring cells are swapped."""
    count, gather = 320, np.arange(320)
    swapped = np.linspace(0, count - 2, max(1, round(share * count / 2))).astype(np.int64) // 2 * 2
    gather[swapped], gather[swapped + 1] = swapped + 1, swapped
    _after(model, _cells(model), [("Gather", [gather.astype(np.int64)], {"axis": 1})])


def sigmoid_missing(model: onnx.ModelProto, which: float) -> None:
    """The logits of the objects (1) or of the classes (2) in place of their probabilities."""
    nodes = [node for node in model.graph.node if node.op_type == "Sigmoid"]
    nodes[int(which) - 1].op_type = "Identity"


def class_offset(model: onnx.ModelProto, classes: float) -> None:
    """Every class has the number of another, as after a wrong background class."""
    outputs = {output.name for output in model.graph.output}
    if LABELS in outputs:
        _after(model, LABELS, [("Add", [np.array(int(classes), np.int64)], {})])
    else:
        _after(model, SCORES, [("Gather", [np.roll(np.arange(10), int(classes)).astype(np.int64)], {"axis": 2})])


def moved_padding(model: onnx.ModelProto, pixels: float) -> None:
    """The picture elsewhere in its letterbox: moved to the right, with a fraction of a pixel by interpolation."""
    whole, rest = int(pixels), pixels - int(pixels)
    kernel = np.zeros((3, 3, 1, whole + 2), np.float32)
    for channel in range(3):
        kernel[channel, channel, 0, :2] = rest, 1 - rest
    _after(model, INPUT, [("Conv", [kernel], {"pads": [0, whole + 1, 0, 0]})])


def swapped_colours(model: onnx.ModelProto, share: float) -> None:
    """BGR in place of RGB, or a mixture of both."""
    kernel = (1 - share) * np.eye(3) + share * np.eye(3)[::-1]
    _after(model, INPUT, [("Conv", [kernel.astype(np.float32)[..., None, None]], {})])


def fewer_boxes(model: onnx.ModelProto, kept: float) -> None:
    """Only the first boxes of the top k; the rest have score 0."""
    _after(model, SCORES, [("Mul", [(np.arange(30) < kept).astype(np.float32)], {})])


def score_order(model: onnx.ModelProto, first: float) -> None:
    """Two boxes with each other's scores, from the place `first` on."""
    order = np.arange(30)
    order[[int(first), int(first) + 1]] = int(first) + 1, int(first)
    _after(model, BOXES, [("Gather", [order.astype(np.int64)], {"axis": 1})])


def _mix_resize(model: onnx.ModelProto, share: float, mode: str, coordinates: str) -> None:
    """A mixture of the last enlargement and of another way to do it."""
    node = [node for node in model.graph.node if node.op_type == "Resize"][-1]
    other, (result,) = onnx.NodeProto(), node.output
    other.CopyFrom(node)
    other.name, other.output[0] = f"{node.name}_other", f"{result}_other"
    for name, value in {"mode": mode, "coordinate_transformation_mode": coordinates}.items():
        for attribute in [attribute for attribute in other.attribute if attribute.name == name]:
            other.attribute.remove(attribute)
        other.attribute.append(helper.make_attribute(name, value))
    element = _element_type(model, result)
    node.output[0] = f"{result}_sound"
    parts = [_constant(model, np.array(part, element)) for part in (1 - share, share)]
    position = list(model.graph.node).index(node) + 1
    nodes = [
        other,
        helper.make_node("Mul", [node.output[0], parts[0]], [f"{result}_part"]),
        helper.make_node("Mul", [other.output[0], parts[1]], [f"{result}_other_part"]),
        helper.make_node("Add", [f"{result}_part", f"{result}_other_part"], [result]),
    ]
    for number, added in enumerate(nodes):
        model.graph.node.insert(position + number, added)


def _element_type(model: onnx.ModelProto, tensor: str) -> npt.DTypeLike:
    graph = onnx.shape_inference.infer_shapes(model).graph
    known = next(value for value in (*graph.output, *graph.value_info) if value.name == tensor)
    return helper.tensor_dtype_to_np_dtype(known.type.tensor_type.elem_type)


def align_corners(model: onnx.ModelProto, share: float) -> None:
    """Bilinear enlargement between the centres of the corner pixels in place of their edges."""
    _mix_resize(model, share, "linear", "align_corners")


def nearest(model: onnx.ModelProto, share: float) -> None:
    """Enlargement by repetition in place of interpolation."""
    _mix_resize(model, share, "nearest", "asymmetric")


_BOTH, _ALL = ("heads", "detector"), ("heads", "detector", "segmenter")
_SHARES = tuple(float(share) for share in np.geomspace(3e-6, 1, 24))
_PIXELS = tuple(float(pixels) for pixels in np.geomspace(5e-4, 8, 24))
FAULTS: Mapping[str, Fault] = {
    "half-pixel shift": Fault(shift_boxes, _BOTH, _PIXELS),
    "xywh for xyxy": Fault(corner_and_size, _BOTH, _SHARES),
    "wrong stride": Fault(wrong_stride, _BOTH, (*_SHARES, -0.5)),
    "cell order": Fault(cell_order, _BOTH, (1e-3, 0.01, 0.1, 1.0)),
    "sigmoid missing": Fault(sigmoid_missing, _BOTH, (1.0, 2.0)),
    "class offset": Fault(class_offset, _BOTH, (-1.0, 1.0, 2.0)),
    "letterbox pad": Fault(moved_padding, _ALL, _PIXELS),
    "BGR for RGB": Fault(swapped_colours, _ALL, _SHARES),
    "top-k cut": Fault(fewer_boxes, ("detector",), tuple(map(float, range(1, 12)))),
    "score order": Fault(score_order, ("detector",), tuple(map(float, range(8)))),
    "align_corners": Fault(align_corners, ("segmenter",), _SHARES),
    "nearest for bilinear": Fault(nearest, ("segmenter",), _SHARES),
}
