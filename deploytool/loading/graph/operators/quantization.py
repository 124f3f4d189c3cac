"""Quantised operators: integers with scales. Sums of products of integers are computed in FP64, which is exact."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from onnx import TensorProto

from deploytool.loading.graph.op import Op, Operator
from deploytool.loading.graph.operators import activations, pooling
from deploytool.loading.graph.operators.convolution import conv

_RANGES: Mapping[int, tuple[int, int]] = {
    TensorProto.INT8: (-128, 127),
    TensorProto.UINT8: (0, 255),
    TensorProto.INT16: (-(1 << 15), (1 << 15) - 1),
    TensorProto.UINT16: (0, (1 << 16) - 1),
    TensorProto.INT4: (-8, 7),
    TensorProto.UINT4: (0, 15),
    TensorProto.INT2: (-2, 1),
    TensorProto.UINT2: (0, 3),
    TensorProto.INT32: (-(1 << 31), (1 << 31) - 1),
}
_CARRIERS: Mapping[int, torch.dtype] = {
    TensorProto.INT8: torch.int8,
    TensorProto.UINT8: torch.uint8,
    TensorProto.INT16: torch.int16,
    TensorProto.UINT16: torch.int32,
    TensorProto.INT4: torch.int8,
    TensorProto.UINT4: torch.uint8,
    TensorProto.INT2: torch.int8,
    TensorProto.UINT2: torch.uint8,
    TensorProto.INT32: torch.int32,
}


def _spread(op: Op, parameter: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """A scale or zero point in a shape that broadcasts with the input: one in all, one a slice, or one a block."""
    if parameter.numel() == 1:
        return torch.reshape(parameter, ())
    axis, block = op.integer("axis", 1) % x.dim(), op.integer("block_size")
    if block:
        return torch.repeat_interleave(parameter, block, axis).narrow(axis, 0, x.shape[axis])
    return parameter.view([-1 if dim == axis else 1 for dim in range(x.dim())])


def _quantised(x: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor | None, kind: int) -> torch.Tensor:
    if kind not in _RANGES:
        raise NotImplementedError("a type that torch does not have")
    return _integers(torch.round(x / scale), zero, _RANGES[kind]).to(_CARRIERS[kind])


def _integers(rounded: torch.Tensor, zero: torch.Tensor | None, ends: tuple[int, int]) -> torch.Tensor:
    """Rounded numbers around a zero point, within both ends, as int64.

    Rounding is a call that modes may see. What follows is exact: a mode that perturbs results would leave 41.99999 of
    42, which becomes 41 as an integer.
    """
    with torch._C.DisableTorchFunction():
        whole = torch.round(rounded)
        shifted = whole if zero is None else whole + zero.to(whole.dtype)
        return torch.clamp(shifted, *ends).to(torch.int64)


def quantize(op: Op, x: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor | None = None) -> torch.Tensor:
    """QuantizeLinear, with one scale, one a slice, or one a block."""
    kind = op.input_type(2) if zero is not None else op.integer("output_dtype", TensorProto.UINT8) or TensorProto.UINT8
    spread = None if zero is None else _spread(op, zero, x)
    return _quantised(x, _spread(op, scale, x), spread, kind)


def dequantize(op: Op, x: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor | None = None) -> torch.Tensor:
    """DequantizeLinear, with one scale, one a slice, or one a block."""
    factor = _spread(op, scale, x)
    if zero is None:
        return x.to(scale.dtype) * factor
    if not x.is_floating_point():
        return (x.to(torch.int64) - _spread(op, zero, x).to(torch.int64)).to(scale.dtype) * factor
    return (x - _spread(op, zero, x)) * factor


def _dynamic_quantize(op: Op, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    largest, smallest = torch.clamp(x.amax(), min=0), torch.clamp(x.amin(), max=0)
    scale = (largest - smallest) / 255
    ends = _RANGES[TensorProto.UINT8]
    zero = _integers(torch.round(-smallest / scale), None, ends)
    result = _integers(torch.round(x / scale), zero, ends)
    return result.to(torch.uint8), scale, zero.to(torch.uint8)


def _centred(x: torch.Tensor, zero: torch.Tensor | None, axis: int) -> torch.Tensor:
    """Integers minus their zero point, one in all or one for each slice along the axis, in FP64."""
    wide = x.to(torch.float64)
    if zero is None:
        return wide
    if zero.dim() > 1 or zero.numel() == 1:
        return wide - (zero if zero.dim() > 1 else zero.reshape(())).to(torch.float64)
    shape = [-1 if dim == axis % x.dim() else 1 for dim in range(x.dim())]
    return wide - zero.to(torch.float64).view(shape)


def _matmul_integer(
    op: Op, a: torch.Tensor, b: torch.Tensor, a_zero: torch.Tensor | None = None, b_zero: torch.Tensor | None = None
) -> torch.Tensor:
    return torch.matmul(_centred(a, a_zero, -2), _centred(b, b_zero, -1)).to(torch.int32)


def _conv_integer(
    op: Op, x: torch.Tensor, w: torch.Tensor, x_zero: torch.Tensor | None = None, w_zero: torch.Tensor | None = None
) -> torch.Tensor:
    result = conv(op, _centred(x, x_zero, 1), _centred(w, w_zero, 0))
    return result.to(torch.int32)


def _requantised(
    op: Op, product: torch.Tensor, factor: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor
) -> torch.Tensor:
    """An exact integer product in the scale of the output."""
    wide = product * factor.to(torch.float64)
    return _quantised(wide, scale.to(torch.float64), zero, op.input_type(7))


def _qlinear_matmul(op: Op, *inputs: torch.Tensor) -> torch.Tensor:
    a, a_scale, a_zero, b, b_scale, b_zero, scale, zero = inputs
    product = torch.matmul(_centred(a, a_zero, -2), _centred(b, b_zero, -1))
    rows = a_scale.to(torch.float64)
    rows = rows.unsqueeze(-1) if rows.dim() == 1 and rows.numel() > 1 else rows
    return _requantised(op, product, rows * b_scale.to(torch.float64), scale, zero)


def _qlinear_conv(op: Op, *inputs: torch.Tensor) -> torch.Tensor:
    x, x_scale, x_zero, w, w_scale, w_zero, scale, zero, *bias = inputs
    product = conv(op, _centred(x, x_zero, 1), _centred(w, w_zero, 0))
    channels = (1, -1, *[1] * (x.dim() - 2))
    if bias:
        product = product + bias[0].to(torch.float64).view(channels)
    factor = (x_scale.to(torch.float64) * w_scale.to(torch.float64)).reshape(-1)
    return _requantised(op, product, factor.view(channels) if factor.numel() > 1 else factor, scale, zero)


OPERATORS: Mapping[str, Operator] = {
    "ConvInteger": _conv_integer,
    "DequantizeLinear": dequantize,
    "DynamicQuantizeLinear": _dynamic_quantize,
    "MatMulInteger": _matmul_integer,
    "QLinearConv": _qlinear_conv,
    "QLinearMatMul": _qlinear_matmul,
    "QuantizeLinear": quantize,
}


def _real(x: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor | None) -> torch.Tensor:
    """The numbers that integers stand for, in FP64; one scale and one zero point."""
    return _centred(x, zero, -1) * scale.to(torch.float64).reshape(())


def _from_reals(op: Op, result: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor | None, at: int) -> torch.Tensor:
    kind = op.input_type(at) if zero is not None else op.input_type(0)
    return _quantised(result, scale.to(torch.float64).reshape(()), zero, kind)


def _qlinear_binary(function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Operator:
    def apply(op: Op, *inputs: torch.Tensor) -> torch.Tensor:
        a, a_scale, a_zero, b, b_scale, b_zero, scale = inputs[:7]
        zero = inputs[7] if len(inputs) > 7 else None
        result = function(_real(a, a_scale, a_zero), _real(b, b_scale, b_zero))
        return _from_reals(op, result, scale, zero, 7)

    return apply


def _qlinear_unary(function: Callable[[Op, torch.Tensor], torch.Tensor]) -> Operator:
    def apply(op: Op, *inputs: torch.Tensor) -> torch.Tensor:
        x, x_scale, x_zero, scale = inputs[:4]
        zero = inputs[4] if len(inputs) > 4 else None
        return _from_reals(op, function(op, _real(x, x_scale, x_zero)), scale, zero, 4)

    return apply


def _qlinear_concat(op: Op, scale: torch.Tensor, zero: torch.Tensor, *inputs: torch.Tensor) -> torch.Tensor:
    parts = [_real(*inputs[at : at + 3]) for at in range(0, len(inputs), 3)]
    return _from_reals(op, torch.cat(parts, op.integer("axis")), scale, zero, 1)


def _qgemm(op: Op, *inputs: torch.Tensor | None) -> torch.Tensor:
    """The bias is in the scale of the product; without an output scale the result is a float."""
    a, a_scale, a_zero, b, b_scale, b_zero, c, scale, zero = (*inputs, *[None] * 9)[:9]
    assert a is not None
    assert a_scale is not None
    assert b is not None
    assert b_scale is not None
    left, right = _centred(a, a_zero, -1), _centred(b, b_zero, -1 if not op.flag("transB") else 0)
    left, right = left.t() if op.flag("transA") else left, right.t() if op.flag("transB") else right
    product = torch.matmul(left, right)
    product = product if c is None else product + c.to(torch.float64)
    result = product * (op.number("alpha", 1.0) * a_scale.to(torch.float64) * b_scale.to(torch.float64))
    return result.to(torch.float32) if scale is None else _from_reals(op, result, scale, zero, 8)


def _matmul_integer_to_float(op: Op, *inputs: torch.Tensor | None) -> torch.Tensor:
    a, b, a_scale, b_scale, a_zero, b_zero, bias = (*inputs, *[None] * 7)[:7]
    assert a is not None
    assert b is not None
    assert a_scale is not None
    assert b_scale is not None
    product = torch.matmul(_centred(a, a_zero, -2), _centred(b, b_zero, -1))
    result = (product * (a_scale.to(torch.float64) * b_scale.to(torch.float64))).to(torch.float32)
    return result if bias is None else result + bias


def _dynamic_quantize_matmul(op: Op, *inputs: torch.Tensor | None) -> torch.Tensor:
    a, b, b_scale, b_zero, bias = (*inputs, *[None] * 5)[:5]
    assert a is not None
    integers, scale, zero = _dynamic_quantize(op, a)
    return _matmul_integer_to_float(op, integers, b, scale, b_scale, zero, b_zero, bias)


MICROSOFT: Mapping[str, Operator] = {
    "DynamicQuantizeMatMul": _dynamic_quantize_matmul,
    "MatMulIntegerToFloat": _matmul_integer_to_float,
    "QGemm": _qgemm,
    "QLinearAdd": _qlinear_binary(torch.add),
    "QLinearAveragePool": _qlinear_unary(pooling.average_pool),
    "QLinearConcat": _qlinear_concat,
    "QLinearGlobalAveragePool": _qlinear_unary(pooling.global_average),
    "QLinearLeakyRelu": _qlinear_unary(activations.leaky_relu),
    "QLinearMul": _qlinear_binary(torch.mul),
    "QLinearSigmoid": _qlinear_unary(lambda op, x: torch.sigmoid(x)),
}
