"""Estimates the memory that running a graph on a CPU may take, from its shapes alone: equal graphs, equal estimates."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper
from onnx.shape_inference import InferenceError

from deploytool.rewrites.graph import shapes

_BASE_MIB = 160  # for the session itself, the arena's first regions, and buffers of libraries

# Bytes for each byte that a tensor has as FP32, or in its own type if that is wider. The arena grows by powers of two
# and does not shrink, a graph in FP16 is computed in FP32 copies, and layouts are changed on copies.
_PER_TENSOR_BYTE, _PER_WEIGHT_BYTE, _PER_ANSWER_BYTE = 2, 6, 20
_FP32_BYTES = 4

_CONVOLUTIONS = ("Conv", "ConvInteger", "DeformConv")
_RECURRENT = {"LSTM": 4, "GRU": 3, "RNN": 1}  # gates
_UNPREDICTABLE = ("Attention", "Loop", "Scan", "If", "SequenceMap")  # their memory does not follow from input shapes
_STANDARD_DOMAINS = ("", "ai.onnx")

Sizes = tuple[int, ...]


def required_mib(model: ModelProto, sizes: Mapping[str, int], cases: int) -> int | None:
    """The MiB a process may take to open the graph and run it on `cases` cases, beyond an empty session.

    `sizes` gives the dynamic dimensions of its inputs by name, the batch included. Returns None if a shape does not
    follow from the sizes alone.
    """
    graph = model.graph
    if any(node.op_type in _UNPREDICTABLE or node.domain not in _STANDARD_DOMAINS for node in graph.node):
        return None
    try:
        inferred = shapes.infer(shapes.with_fixed_sizes(shapes.without_large_weights(model), sizes))
    except InferenceError:  # ONNX Runtime may still be able to run the graph
        return None
    known = {name: shape for name, value in inferred.items() if (shape := _static_shape(value)) is not None}
    known |= {weight.name: tuple(weight.dims) for weight in graph.initializer}
    computed = {name for node in graph.node for name in node.output if name}
    ends = {value.name for value in (*graph.input, *graph.output)}
    if not (computed | ends) <= known.keys():
        return None
    tensors = sum(_tensor_bytes(known[name], inferred.get(name)) for name in computed | ends)
    scratch = max((sum(_scratch_elements(node, known)) for node in graph.node), default=0) * _FP32_BYTES
    batch = max(_first_size(known[value.name]) for value in graph.output)
    output_bytes = sum(_tensor_bytes(known[value.name], inferred.get(value.name)) for value in graph.output)
    answers = output_bytes * max(1, cases / batch)
    weights = sum(_weight_bytes(weight) for weight in _weights(model))
    total = _PER_TENSOR_BYTE * (tensors + scratch) + _PER_WEIGHT_BYTE * weights + _PER_ANSWER_BYTE * answers
    return _BASE_MIB + math.ceil(total / (1 << 20))


def _static_shape(value: ValueInfoProto) -> Sizes | None:
    """The shape of a tensor; None if its rank or a dimension is unknown."""
    shape = shapes.dims(value)
    if not value.type.tensor_type.HasField("shape") or any(size is None for size in shape):
        return None
    return tuple(size for size in shape if size is not None)


def _first_size(shape: Sizes) -> int:
    return max(shape[0], 1) if shape else 1


def _tensor_bytes(shape: Sizes, value: ValueInfoProto | None) -> int:
    """The bytes of a tensor in FP32, or in its own type if that is wider."""
    elem_type = value.type.tensor_type.elem_type if value is not None else TensorProto.FLOAT
    return math.prod(shape) * _element_bytes(elem_type)


def _weights(model: ModelProto) -> Iterator[TensorProto]:
    """All weights, tensors in attributes included."""
    yield from model.graph.initializer
    for node in model.graph.node:
        yield from (attribute.t for attribute in node.attribute if attribute.type == AttributeProto.TENSOR)


def _weight_bytes(weight: TensorProto) -> int:
    shape: Sizes = tuple(weight.dims)
    return math.prod(shape) * _element_bytes(weight.data_type)


def _element_bytes(elem_type: int) -> int:
    return max(_FP32_BYTES, int(helper.tensor_dtype_to_np_dtype(elem_type).itemsize))


def _scratch_elements(node: NodeProto, known: Mapping[str, Sizes]) -> Iterator[int]:
    """The elements that an operator allocates while it runs: copies of inputs and outputs, and rearranged data."""
    inputs, outputs = ([known[name] for name in names if name in known] for names in (node.input, node.output))
    yield sum(math.prod(shape) for shape in (*inputs, *outputs))
    if node.op_type in _CONVOLUTIONS and outputs:
        yield math.prod(inputs[1][1:]) * math.prod(outputs[0][2:])  # im2col: a column for every output pixel
    elif node.op_type == "ConvTranspose":
        yield math.prod(inputs[1][1:]) * math.prod(inputs[0][2:])  # col2im: a column for every input pixel
    elif node.op_type in _RECURRENT and len(inputs) > 2:
        steps, hidden, directions = math.prod(inputs[0][:2]), inputs[2][-1], inputs[2][0]
        yield 2 * steps * hidden * directions * _RECURRENT[node.op_type]
