"""What a Q/DQ graph says, in numpy: exact sums of products of integers, each rounded once."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, helper, numpy_helper

Array = npt.NDArray[Any]
_ENDS = {np.dtype(np.uint8): (0, 255), np.dtype(np.int8): (-128, 127), np.dtype(np.int32): (-(2**31), 2**31 - 1)}


def answers(model: onnx.ModelProto, **inputs: Array) -> dict[str, Array]:
    """Every tensor of a graph by name; convolutions and Gemm of dequantised tensors in integers."""
    tensors = {weight.name: numpy_helper.to_array(weight) for weight in model.graph.initializer} | inputs
    producers = {node.output[0]: node for node in model.graph.node}
    for node in model.graph.node:
        settings = {each.name: helper.get_attribute_value(each) for each in node.attribute}
        values = [tensors[name] for name in node.input if name]
        if node.op_type in ("Conv", "Gemm"):
            factors = [_factor(producers[name], tensors) for name in node.input[:2]]
            bias = values[2] if len(values) > 2 else None
            tensors[node.output[0]] = _product(node.op_type, factors, bias, settings)
        else:
            tensors[node.output[0]] = _other(node, values, settings)
    return tensors


def _factor(node: NodeProto, tensors: dict[str, Array]) -> tuple[Array, Array]:
    """The integers of a dequantised tensor without their zero point, and its scales."""
    codes, scale, zero = (tensors[name] for name in node.input)
    if zero.size > 1:
        axis = next(each.i for each in node.attribute if each.name == "axis")
        zero = zero.reshape([-1 if dim == axis else 1 for dim in range(codes.ndim)])
    return codes.astype(np.int64) - zero.astype(np.int64), np.atleast_1d(scale)


def _product(op: str, factors: list[tuple[Array, Array]], bias: Array | None, settings: dict[str, Any]) -> Array:
    (left, left_scale), (right, right_scale) = factors
    if op == "Gemm":
        sums = left @ (right.T if settings.get("transB") else right)
    else:
        sums = _convolution(left, right, settings)
    channels = sums.shape[1]
    scales = [Fraction(float(left_scale[0])) * Fraction(float(each)) for each in right_scale] * channels
    addends = [Fraction(0)] * channels if bias is None else [Fraction(float(each)) for each in bias]
    result = np.empty(sums.shape, np.float32)
    for channel in range(channels):
        whole, inverse = np.unique(sums[:, channel], return_inverse=True)
        reals = [np.float32(float(int(each) * scales[channel] + addends[channel])) for each in whole]
        result[:, channel] = np.array(reals)[inverse].reshape(sums[:, channel].shape)
    return result


def _convolution(images: Array, weights: Array, settings: dict[str, Any]) -> Array:
    groups, stride, pad = settings["group"], settings["strides"][0], settings["pads"][0]
    padded = np.pad(images, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, weights.shape[2:], (2, 3))[:, :, ::stride, ::stride]
    parts = zip(np.split(windows, groups, 1), np.split(weights, groups), strict=True)
    return np.concatenate([np.einsum("bchwij,ocij->bohw", part, weight) for part, weight in parts], 1)


def _other(node: NodeProto, values: list[Array], settings: dict[str, Any]) -> Array:
    first = values[0]
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        shape = [-1 if dim == settings.get("axis", 1) else 1 for dim in range(first.ndim)]
        scale, zero = (each.reshape(shape) if each.size > 1 else each for each in values[1:])
        result = _quantise(first, scale, zero) if node.op_type == "QuantizeLinear" else _dequantise(first, scale, zero)
    elif node.op_type == "MaxPool":
        rows, columns = first.shape[2] // 2, first.shape[3] // 2
        pairs = first[:, :, : rows * 2, : columns * 2].reshape(*first.shape[:2], rows, 2, columns, 2)
        result = pairs.max((3, 5))
    elif node.op_type == "Add":
        result = first + values[1]
    elif node.op_type == "Concat":
        result = np.concatenate(values, settings["axis"])
    else:
        result = {"Flatten": first.reshape(len(first), -1), "Relu": np.maximum(first, 0)}[node.op_type]
    return result


def _quantise(reals: Array, scale: Array, zero: Array) -> Array:
    codes: Array = np.clip(np.rint(reals / scale) + zero.astype(np.float32), *_ENDS[zero.dtype]).astype(zero.dtype)
    return codes


def _dequantise(codes: Array, scale: Array, zero: Array) -> Array:
    reals: Array = (codes.astype(np.int32) - zero.astype(np.int32)).astype(np.float32) * scale
    return reals
