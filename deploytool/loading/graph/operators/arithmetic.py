"""Operators that compute element by element, matrix products and cumulative sums."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

import torch
from torch.nn import functional

from deploytool.loading.graph import element_types
from deploytool.loading.graph.op import Op, Operator

_BITS = {torch.uint8: 8, torch.int8: 8, torch.int16: 16, torch.int32: 32, torch.int64: 64}


def _unary(function: Callable[[torch.Tensor], torch.Tensor]) -> Operator:
    return lambda op, x: function(x)


def _binary(function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Operator:
    def apply(op: Op, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        _refuse_strings(a, b)
        return function(a, b)

    return apply


def _variadic(function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Operator:
    return lambda op, *inputs: reduce(function, inputs)


def _refuse_strings(*values: Any) -> None:
    if not all(isinstance(value, torch.Tensor) for value in values):
        raise NotImplementedError("strings")


def _div(op: Op, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    if a.is_floating_point() or a.is_complex():
        return torch.div(a, b)
    return torch.div(a, b, rounding_mode="trunc")


def _mod(op: Op, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """`fmod` has the sign of the dividend, as in C; otherwise that of the divisor, as in Python."""
    return torch.fmod(a, b) if op.flag("fmod") else torch.remainder(a, b)


def _pow(op: Op, base: torch.Tensor, exponent: torch.Tensor) -> torch.Tensor:
    """The result has the type of the base."""
    result = torch.pow(base, exponent)
    return result if result.dtype == base.dtype else result.to(base.dtype)


def _mean(op: Op, *inputs: torch.Tensor) -> torch.Tensor:
    return inputs[0] if len(inputs) == 1 else torch.div(reduce(torch.add, inputs), len(inputs))


def _clip(op: Op, x: torch.Tensor, low: torch.Tensor | None = None, high: torch.Tensor | None = None) -> torch.Tensor:
    if op.version < 11:
        limits = [op.number(name) if op.has(name) else None for name in ("min", "max")]
        return x if limits == [None, None] else torch.clamp(x, min=limits[0], max=limits[1])
    if low is None and high is None:
        return x
    if low is not None and high is not None and not x.is_floating_point():
        return torch.minimum(torch.maximum(x, low), high)
    return torch.clamp(x, min=low, max=high)


def _is_inf(op: Op, x: torch.Tensor) -> torch.Tensor:
    positive, negative = op.flag("detect_positive", True), op.flag("detect_negative", True)
    if positive and negative:
        return torch.isinf(x)
    if not positive and not negative:
        return torch.zeros_like(x, dtype=torch.bool)
    return torch.isposinf(x) if positive else torch.isneginf(x)


def _bit_shift(op: Op, x: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
    bits = _BITS[x.dtype]
    if op.text("direction") == "LEFT":
        return torch.where(by >= bits, torch.zeros_like(x), torch.bitwise_left_shift(x, by))
    if x.dtype == torch.uint8:
        return torch.where(by >= bits, torch.zeros_like(x), torch.bitwise_right_shift(x, by))
    return torch.bitwise_right_shift(x, torch.clamp(by, max=bits - 1))  # the sign fills up


def gemm(op: Op, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor | None = None) -> torch.Tensor:
    """Gemm, as a linear layer where it is one."""
    alpha, beta = op.number("alpha", 1.0), op.number("beta", 1.0)
    left = a.t() if op.flag("transA") else a
    is_bias = c is None or (beta == 1 and c.dim() == 1 and c.numel() == b.shape[0 if op.flag("transB") else 1])
    if alpha == 1 and is_bias and a.is_floating_point():
        return functional.linear(left, b if op.flag("transB") else b.t(), c)
    product = torch.matmul(left, b.t() if op.flag("transB") else b)
    scaled = product if alpha == 1 else (product * alpha).to(product.dtype)
    if c is None or beta == 0:
        return scaled
    return scaled + (c if beta == 1 else (c * beta).to(c.dtype))


def _einsum(op: Op, *inputs: torch.Tensor) -> torch.Tensor:
    result: torch.Tensor = torch.einsum(op.text("equation"), *inputs)
    return result


def _cumulative(function: Callable[[torch.Tensor, int], torch.Tensor], neutral: int) -> Operator:
    def apply(op: Op, x: torch.Tensor, axis: torch.Tensor) -> torch.Tensor:
        dim = int(axis)
        source = x.flip(dim) if op.flag("reverse") else x
        if op.flag("exclusive"):
            first = torch.full_like(source.narrow(dim, 0, 1), neutral)
            source = torch.cat([first, source.narrow(dim, 0, source.shape[dim] - 1)], dim)
        result = function(source, dim)
        result = result if result.dtype == x.dtype else result.to(x.dtype)
        return result.flip(dim) if op.flag("reverse") else result

    return apply


def _cast(op: Op, x: Any, *_: Any) -> Any:
    """To the attribute `to`, or for CastLike to the type of the second input."""
    kind = op.integer("to") if op.has("to") else op.input_type(1)
    _refuse_strings(x)
    source = op.input_type(0)
    result = None if source in element_types.NARROW_FLOATS[2:] else element_types.cast(x, kind)
    if result is None:
        raise NotImplementedError("a type that torch does not have")
    return result


OPERATORS: Mapping[str, Operator] = {
    "Abs": _unary(torch.abs),
    "Acos": _unary(torch.acos),
    "Acosh": _unary(torch.acosh),
    "Add": _binary(torch.add),
    "And": _binary(torch.logical_and),
    "Asin": _unary(torch.asin),
    "Asinh": _unary(torch.asinh),
    "Atan": _unary(torch.atan),
    "Atanh": _unary(torch.atanh),
    "BitShift": _bit_shift,
    "BitwiseAnd": _binary(torch.bitwise_and),
    "BitwiseNot": _unary(torch.bitwise_not),
    "BitwiseOr": _binary(torch.bitwise_or),
    "BitwiseXor": _binary(torch.bitwise_xor),
    "Cast": _cast,
    "CastLike": _cast,
    "Ceil": _unary(torch.ceil),
    "Clip": _clip,
    "Cos": _unary(torch.cos),
    "Cosh": _unary(torch.cosh),
    "CumProd": _cumulative(torch.cumprod, 1),
    "CumSum": _cumulative(torch.cumsum, 0),
    "Det": _unary(torch.linalg.det),
    "Div": _div,
    "Einsum": _einsum,
    "Equal": _binary(torch.eq),
    "Erf": _unary(torch.erf),
    "Exp": _unary(torch.exp),
    "Floor": _unary(torch.floor),
    "Gemm": gemm,
    "Greater": _binary(torch.gt),
    "GreaterOrEqual": _binary(torch.ge),
    "IsInf": _is_inf,
    "IsNaN": _unary(torch.isnan),
    "Less": _binary(torch.lt),
    "LessOrEqual": _binary(torch.le),
    "Log": _unary(torch.log),
    "MatMul": _binary(torch.matmul),
    "Max": _variadic(torch.maximum),
    "Mean": _mean,
    "Min": _variadic(torch.minimum),
    "Mod": _mod,
    "Mul": _binary(torch.mul),
    "Neg": _unary(torch.neg),
    "Not": _unary(torch.logical_not),
    "Or": _binary(torch.logical_or),
    "Pow": _pow,
    "Reciprocal": _unary(torch.reciprocal),
    "Round": _unary(torch.round),
    "Sign": _unary(torch.sign),
    "Sin": _unary(torch.sin),
    "Sinh": _unary(torch.sinh),
    "Sqrt": _unary(torch.sqrt),
    "Sub": _binary(torch.sub),
    "Sum": _variadic(torch.add),
    "Tan": _unary(torch.tan),
    "Xor": _binary(torch.logical_xor),
}
