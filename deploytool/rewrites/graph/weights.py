"""The weights of an ONNX graph: their sizes and values, wherever they are, and a graph without them for libraries.

A weight of a loaded graph can be in a side file, where `values` reads it when it is needed. Such a graph, or one beyond
the limit of protobuf, is never given to onnx or ONNX Runtime as it is: `bare`, `infer_shapes` and `session_parts` make
what those accept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from google.protobuf.message import EncodeError, Message  # type: ignore[import-untyped]
from onnx import ModelProto, TensorProto, helper, numpy_helper

from deploytool.errors import StageFailed

Array = npt.NDArray[Any]

# Bytes of weights beyond which they go to a side file: a protobuf message holds 2 GiB, and the rest is for the nodes.
MAX_INLINE_BYTES = (2 << 30) - (128 << 20)
SMALLEST = 1024  # bytes: smaller weights stay in the graph, where shape inference can read them
VALUE_FIELDS = ("raw_data", "float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")
_BITS = {"UINT4": 4, "INT4": 4, "FLOAT4E2M1": 4, "UINT2": 2, "INT2": 2}  # packed types, by name


def values(tensor: TensorProto) -> Array:
    """The values of a tensor; those in a side file are mapped into memory, read-only."""
    if tensor.data_location != TensorProto.EXTERNAL:
        return numpy_helper.to_array(tensor)
    mapped = _mapped(tensor)
    if TensorProto.DataType.Name(tensor.data_type) in _BITS:
        inline = TensorProto(data_type=tensor.data_type, dims=tensor.dims, raw_data=mapped.tobytes())
        return numpy_helper.to_array(inline)
    dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    return mapped.view(dtype).reshape(tuple(tensor.dims))


def tensor_bytes(tensor: TensorProto) -> int:
    """The bytes of a tensor's values, from its type and shape; 0 for texts and unknown types, negative if it is."""
    name = TensorProto.DataType.Name(tensor.data_type) if tensor.data_type in TensorProto.DataType.values() else ""
    if name in ("", "UNDEFINED", "STRING"):
        return 0
    bits = _BITS.get(name) or 8 * int(helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
    elements: int = math.prod(tensor.dims)
    return (elements * bits + 7) // 8


def weight_bytes(graph: ModelProto) -> int:
    """The bytes of all weights of the main graph."""
    return sum(tensor_bytes(weight) for weight in graph.graph.initializer)


def is_large(graph: ModelProto) -> bool:
    """Whether a graph cannot be given to a library as one message: it is too large, or has weights in side files."""
    external = any(weight.data_location == TensorProto.EXTERNAL for weight in graph.graph.initializer)
    return external or weight_bytes(graph) > MAX_INLINE_BYTES


def is_big(weight: TensorProto) -> bool:
    """Whether a weight leaves the message of a large graph: it is in a side file, or has at least `SMALLEST` bytes."""
    external = weight.data_location == TensorProto.EXTERNAL
    return external or (weight.data_type != TensorProto.STRING and tensor_bytes(weight) >= SMALLEST)


def bare(graph: ModelProto) -> ModelProto:
    """The graph for shape inference: the same object, or a copy that names its large weights without their values."""
    return _without_data(graph) if is_large(graph) else graph


def infer_shapes(graph: ModelProto, *, strict: bool = False) -> ModelProto:
    """The graph with the types and shapes of its tensors; a large one comes without the values of its weights."""
    return onnx.shape_inference.infer_shapes(bare(graph), strict_mode=strict)


def session_parts(graph: ModelProto) -> tuple[bytes, Mapping[str, Array]]:
    """A graph as a message for ONNX Runtime, and the weights that must be passed beside it, by name."""
    if not is_large(graph):
        return graph.SerializeToString(), {}
    weights = {weight.name: values(weight) for weight in graph.graph.initializer if is_big(weight)}
    return serialise(_without_data(graph)), weights


def raw(weight: TensorProto) -> memoryview:
    """The bytes of a weight as a side file holds them."""
    if weight.data_location == TensorProto.EXTERNAL:
        return _mapped(weight).data
    return memoryview(weight.raw_data or numpy_helper.from_array(numpy_helper.to_array(weight)).raw_data)


def _mapped(weight: TensorProto) -> Array:
    """The bytes of a weight in a side file, mapped into memory."""
    location, offset = place(weight)
    return np.memmap(location, np.uint8, "r", offset, (tensor_bytes(weight),))


def place(tensor: TensorProto) -> tuple[str, int]:
    """The file and offset of a loaded tensor."""
    stated = {entry.key: entry.value for entry in tensor.external_data}
    return stated["location"], int(stated.get("offset", 0))


def set_reference(tensor: TensorProto, location: str, offset: int) -> None:
    """States where the values of a tensor are."""
    length = tensor_bytes(tensor)
    del tensor.external_data[:]
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))


def clear_reference(tensor: TensorProto) -> None:
    """States that a tensor has its values in itself."""
    del tensor.external_data[:]
    tensor.ClearField("data_location")


def inlined(graph: ModelProto) -> ModelProto:
    """The graph with all weights in it: the same object if it has no side files."""
    if not any(weight.data_location == TensorProto.EXTERNAL for weight in graph.graph.initializer):
        return graph
    inlined = ModelProto()
    inlined.CopyFrom(graph)
    for weight in inlined.graph.initializer:
        if weight.data_location == TensorProto.EXTERNAL:
            content = bytes(raw(weight))
            clear_reference(weight)
            weight.raw_data = content
    return inlined


def _without_data(graph: ModelProto) -> ModelProto:
    """A copy of a graph with its large weights as external data; never copies their values."""
    skeleton = ModelProto()
    _copy_fields(graph, skeleton, "graph")
    _copy_fields(graph.graph, skeleton.graph, "initializer")
    for weight in graph.graph.initializer:
        stub = skeleton.graph.initializer.add()
        if is_big(weight):
            _copy_fields(weight, stub, *VALUE_FIELDS)
            set_reference(stub, "weights", 0)
        else:
            stub.CopyFrom(weight)
    return skeleton


def _copy_fields(source: Message, target: Message, *excluded: str) -> None:
    """Copies all fields of a message but the excluded ones, whose values are not even read."""
    for descriptor in source.DESCRIPTOR.fields:
        name = descriptor.name
        if name in excluded:
            continue
        value = getattr(source, name)
        if descriptor.is_repeated:
            getattr(target, name).extend(value)
        elif source.HasField(name):
            if isinstance(value, Message):
                getattr(target, name).CopyFrom(value)
            else:
                setattr(target, name, value)


def serialise(graph: ModelProto) -> bytes:
    """The message of a graph, deterministic; raises StageFailed if it is too large for one."""
    with suppress(EncodeError, ValueError):
        return bytes(graph.SerializeToString(deterministic=True))
    raise StageFailed("the graph without its large weights exceeds the 2 GiB of an ONNX file", "export its parts apart")
