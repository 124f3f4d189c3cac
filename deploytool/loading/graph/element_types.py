"""The element types of ONNX, the torch types that store them, and the types in which their values are computed.

A narrow float (FP16, BF16, FP8, FP4) is computed in the working precision: FP32, or FP64 inside `fp64.run()`. Only a
Cast to a narrow type rounds. So the truth of an FP16 file is its own arithmetic in higher precision: the weights as
stored, every sum and product unrounded, the casts as the file has them. Integers of 16 to 64 bits without a sign are
computed in wider signed types, since torch has few operators for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, numpy_helper

from deploytool.loading.module import fp64
from deploytool.rewrites.graph import weights

Value: TypeAlias = Any  # torch.Tensor; a list for a sequence; a numpy array for strings; None for an omitted input

UNKNOWN = TensorProto.UNDEFINED
_STORED: Mapping[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.BOOL: torch.bool,
    TensorProto.INT8: torch.int8,
    TensorProto.INT16: torch.int16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.UINT8: torch.uint8,
    TensorProto.COMPLEX64: torch.complex64,
    TensorProto.COMPLEX128: torch.complex128,
}
_WIDER_INTEGERS: Mapping[int, torch.dtype] = {
    TensorProto.UINT16: torch.int32,
    TensorProto.UINT32: torch.int64,
    TensorProto.UINT64: torch.int64,
    TensorProto.INT4: torch.int8,
    TensorProto.INT2: torch.int8,
    TensorProto.UINT4: torch.uint8,
    TensorProto.UINT2: torch.uint8,
}
_UNSIGNED: Mapping[int, torch.dtype] = {
    TensorProto.UINT16: torch.uint16,
    TensorProto.UINT32: torch.uint32,
    TensorProto.UINT64: torch.uint64,
}
_LAST_BIT: Mapping[int, int] = {TensorProto.UINT16: 0xFFFF, TensorProto.UINT32: 0xFFFFFFFF}
_WIDENED: Mapping[torch.dtype, torch.dtype] = {
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.uint16: torch.int32,
    torch.uint32: torch.int64,
    torch.uint64: torch.int64,
}
NARROW_FLOATS = (
    *(TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E4M3FNUZ),
    *(TensorProto.FLOAT8E5M2, TensorProto.FLOAT8E5M2FNUZ, TensorProto.FLOAT8E8M0, TensorProto.FLOAT4E2M1),
)


def computed(element_type: int) -> torch.dtype | None:
    """The torch type in which values of an element type are computed; None for strings and unknown types."""
    if element_type in NARROW_FLOATS:
        return torch.float32
    return _WIDER_INTEGERS.get(element_type) or _STORED.get(element_type)


def widened(value: Value) -> Value:
    """A value in the type in which it is computed."""
    if isinstance(value, torch.Tensor):
        wider = _WIDENED.get(value.dtype)
        return value if wider is None else value.to(wider)
    return [widened(item) for item in value] if isinstance(value, list) else value


def wrapped(value: Value, element_type: int) -> Value:
    """A result of unsigned arithmetic, reduced to the bits of its element type."""
    last = _LAST_BIT.get(element_type)
    return value & last if last is not None and isinstance(value, torch.Tensor) else value


def declared(value: Value, element_type: int) -> Value:
    """A result in the element type that the graph declares; inside `fp64.run()` narrow floats stay in FP64."""
    if not isinstance(value, torch.Tensor):
        return value
    if element_type in _UNSIGNED:
        return value.to(_UNSIGNED[element_type])
    if element_type in (TensorProto.FLOAT16, TensorProto.BFLOAT16) and not fp64.is_running():
        return value.to(_STORED[element_type])
    return value


def cast(value: torch.Tensor, element_type: int) -> torch.Tensor | None:
    """A value converted as Cast does, in the type in which it is computed; None for types that torch does not have."""
    if element_type in _UNSIGNED:
        integer: torch.Tensor = wrapped(value.to(torch.int64), element_type)
        return integer.to(_WIDER_INTEGERS[element_type])
    if element_type in (TensorProto.FLOAT16, TensorProto.BFLOAT16):
        return value.to(_STORED[element_type]).to(torch.float32)
    dtype = _STORED.get(element_type)
    return None if dtype is None else value.to(dtype)


def to_torch(array: npt.NDArray[Any]) -> Value:
    """A numpy array as a tensor in the type in which it is computed; strings stay an array.

    Narrow types that numpy has from `ml_dtypes` are converted.
    """
    if array.dtype.kind in "OSU":
        return array.astype(object)
    name = array.dtype.name
    if name.startswith(("float16", "bfloat", "float8", "float4")):
        return torch.from_numpy(np.array(array.astype(np.float32))).to(torch.float32)
    wider = {"uint16": np.int32, "uint32": np.int64, "uint64": np.int64, "int4": np.int8, "int2": np.int8}
    wider |= {"uint4": np.uint8, "uint2": np.uint8}
    computable = np.array(array.astype(wider.get(name, array.dtype), copy=False), order="C", copy=None)
    return torch.from_numpy(computable if computable.flags.writeable else computable.copy())


def stored(tensor: onnx.TensorProto) -> Value:
    """An initialiser as a writable tensor in its own type; types that torch lacks are widened; strings are an array.

    The bytes are copied once, those in a side file from there.
    """
    dtype = _STORED.get(tensor.data_type)
    if tensor.data_location == TensorProto.EXTERNAL:
        tensor = TensorProto(data_type=tensor.data_type, dims=tensor.dims, raw_data=bytes(weights.raw(tensor)))
    if dtype is not None and tensor.HasField("raw_data"):
        shape = tuple(tensor.dims)
        if not tensor.raw_data:
            return torch.empty(shape, dtype=dtype)
        return torch.frombuffer(bytearray(tensor.raw_data), dtype=dtype).reshape(shape)
    array = numpy_helper.to_array(tensor)
    if tensor.data_type == TensorProto.FLOAT16:
        return torch.from_numpy(array.copy())
    value = to_torch(array)
    return value.to(torch.bfloat16) if tensor.data_type == TensorProto.BFLOAT16 else value


def to_numpy(value: Value, element_type: int, *, narrow: bool) -> Any:
    """A value as the reference evaluator takes it: in its element type, but FP64 stays FP64 unless `narrow`."""
    if isinstance(value, (list, tuple)):
        return [to_numpy(item, element_type, narrow=narrow) for item in value]
    if not isinstance(value, torch.Tensor):
        return value
    array = value.detach().cpu().numpy()
    is_wide = array.dtype == np.float64 or element_type in (TensorProto.FLOAT16, TensorProto.BFLOAT16)
    if element_type == UNKNOWN or (is_wide and not narrow):
        return array
    dtype = onnx.helper.tensor_dtype_to_np_dtype(element_type)
    return array if array.dtype == dtype else array.astype(dtype)
