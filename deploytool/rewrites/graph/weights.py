"""The weights of an ONNX graph: their sizes and values, wherever they are, and a graph without them for libraries.

A weight of a loaded graph can be in a side file, where `values` reads it when it is needed. Such a graph, or one beyond
the limit of protobuf, is never given to onnx or ONNX Runtime as it is: `bare`, `infer_shapes` and `session_parts` make
what those accept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from google.protobuf.message import EncodeError, Message  # type: ignore[import-untyped]
from onnx import ModelProto, TensorProto, helper, numpy_helper

from deploytool.errors import StageFailed
from deploytool.host import side_files

Array = npt.NDArray[Any]

MAX_INLINE_BYTES = side_files.MAX_INLINE_BYTES  # of a graph without a side file
SMALLEST = 1024  # bytes: smaller weights stay in the graph, where shape inference can read them
_COPIES = 8  # of a graph, more than onnx makes: those of a graph far below 2 GB would add up to more than that
VALUE_FIELDS = ("raw_data", "float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")
_BITS = {"UINT4": 4, "INT4": 4, "FLOAT4E2M1": 4, "UINT2": 2, "INT2": 2}  # packed types, by name


@dataclass(frozen=True)
class SessionParts:
    """A graph for ONNX Runtime: its message, big weights by name, and the folder of the side files, if it has any."""

    message: bytes
    arrays: Mapping[str, Array]
    folder: Path | None


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


def is_large(graph: ModelProto, growth: int = 1) -> bool:
    """Whether a graph cannot be given to a library as one message: it is too large, or has weights in side files.

    With `growth`, whether a graph with so many times the weights would be.
    """
    external = any(weight.data_location == TensorProto.EXTERNAL for weight in graph.graph.initializer)
    return external or growth * weight_bytes(graph) > MAX_INLINE_BYTES


def is_big(weight: TensorProto) -> bool:
    """Whether a weight leaves the message of a large graph: it is in a side file, or has at least `SMALLEST` bytes."""
    external = weight.data_location == TensorProto.EXTERNAL
    return external or (weight.data_type in side_files.ELEMENT_TYPES and tensor_bytes(weight) >= SMALLEST)


def bare(graph: ModelProto, growth: int = 1) -> ModelProto:
    """The graph for shape inference: the same object, or a copy that names its large weights without their values."""
    return _without_data(graph, _nowhere) if is_large(graph, growth) else graph


def infer_shapes(graph: ModelProto, *, strict: bool = False) -> ModelProto:
    """The graph with the types and shapes of its tensors; a large one comes without the values of its weights."""
    return onnx.shape_inference.infer_shapes(bare(graph, _COPIES), strict_mode=strict)


def check(graph: ModelProto, *, full: bool = True) -> None:
    """Checks a graph with the checker of onnx, which raises errors of its own; large weights are checked as inputs.

    With `full`, types and shapes are inferred too.
    """
    if is_large(graph, growth=_COPIES):
        large = [weight for weight in graph.graph.initializer if is_big(weight)]
        graph = _without_data(graph, lambda weight: None, frozenset(weight.name for weight in large))
        graph.graph.input.extend(
            helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims) for weight in large
        )
    onnx.checker.check_model(graph, full_check=full)


def session_parts(graph: ModelProto) -> SessionParts:
    """A graph for ONNX Runtime: the same bytes as ever, or for a large graph what goes around them."""
    if not is_large(graph):
        return SessionParts(graph.SerializeToString(), {}, None)
    stated = [weight for weight in graph.graph.initializer if weight.data_location == TensorProto.EXTERNAL]
    folders = {Path(place(weight)[0]).parent for weight in stated}
    folder = folders.pop() if len(folders) == 1 else None
    arrays: dict[str, Array] = {}

    def refer(weight: TensorProto) -> tuple[str, int] | None:
        if folder and weight.data_location == TensorProto.EXTERNAL:
            location, offset = place(weight)
            return Path(location).name, offset
        if weight.data_type not in side_files.ELEMENT_TYPES:
            return None
        arrays[weight.name] = values(weight)
        return _nowhere(weight)

    return SessionParts(serialise(_without_data(graph, refer)), arrays, folder)


def renamed(weight: TensorProto, name: str) -> TensorProto:
    """A copy of a weight under another name, wherever its values are."""
    copy = TensorProto()
    copy.CopyFrom(weight)
    copy.name = name
    return copy


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
    external = any(weight.data_location == TensorProto.EXTERNAL for weight in graph.graph.initializer)
    return _without_data(graph, lambda weight: None) if external else graph


def without_contents(graph: ModelProto) -> ModelProto:
    """A copy of a graph without its nodes, weights and shapes, none of which is copied."""
    copy = ModelProto()
    _copy_fields(graph, copy, "graph")
    _copy_fields(graph.graph, copy.graph, "node", "initializer", "value_info")
    return copy


def _nowhere(weight: TensorProto) -> tuple[str, int] | None:
    """A place for a weight whose values come from elsewhere or are not needed."""
    return "weights", 0


def _without_data(
    graph: ModelProto, refer: Callable[[TensorProto], tuple[str, int] | None], excluded: Collection[str] = ()
) -> ModelProto:
    """A copy of a graph without weights `excluded` and with its big weights at the places that `refer` gives.

    A weight without a place has its values in the copy.
    """
    copy = ModelProto()
    _copy_fields(graph, copy, "graph")
    _copy_fields(graph.graph, copy.graph, "initializer")
    for weight in graph.graph.initializer:
        if weight.name in excluded:
            continue
        stub = copy.graph.initializer.add()
        location = refer(weight) if is_big(weight) else None
        if location is not None:
            _copy_fields(weight, stub, *VALUE_FIELDS)
            set_reference(stub, *location)
        elif weight.data_location == TensorProto.EXTERNAL:
            _copy_fields(weight, stub, "external_data", "data_location")
            stub.raw_data = bytes(raw(weight))
        else:
            stub.CopyFrom(weight)
    return copy


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
