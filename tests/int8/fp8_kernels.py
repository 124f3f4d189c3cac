"""A graph in FP8 as kernels of a GPU may compute it, in NumPy; no code of deploytool is used.

What differs between sound kernels: how a sum is added (in FP32, or as tensor cores of compute capability 9.0 are
reported to do, in blocks whose terms keep 14 bits of the largest), and whether a value is rounded to FP16 between the
nodes that one kernel computes. `Fault` has what makes a kernel wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

Array = npt.NDArray[Any]

_BLOCK, _BITS = 32, 13  # terms that are added at once, and bits below the leading one of the largest that they keep
_E4M3, _E5M2 = np.dtype(ml_dtypes.float8_e4m3fn), np.dtype(ml_dtypes.float8_e5m2)
_LARGEST = 448.0
_ELEMENTWISE = ("Relu", "Sigmoid", "Mul", "Add", "Sub", "Div", "Erf", "Clip", "Cast", "Identity")


class Sums(Enum):
    """How the products of a convolution or matrix product are added."""

    FP32 = "FP32"
    ALIGNED = "blocks of 14 bits"


class Rounded(Enum):
    """Which values are rounded to FP16, of those that the graph has in FP16."""

    ALL = "each node"
    KERNELS = "each kernel"
    STORED = "each kernel that does not quantise"


class Fault(Enum):
    """What is wrong at one of the products in FP8."""

    SCALE = "scale on one side"
    STALE = "scale of a quarter of the range"
    SWAPPED = "scale of another layer"
    TRUNCATED = "rounded towards zero"
    E5M2 = "two bits of fraction"
    SATURATED = "ends at 240"
    NO_BIAS = "no bias"
    ROLLED = "weights of the next channel"
    TRANSPOSED = "kernel mirrored, or inputs of the next channel"


@dataclass(frozen=True)
class Planted:
    """A fault at the product with this index among those in FP8."""

    fault: Fault
    place: int


class Kernels:
    """Runs a graph by kernels of one kind, with a fault if there is one."""

    def __init__(self, model: onnx.ModelProto, sums: Sums, rounded: Rounded, planted: Planted | None = None) -> None:
        self._nodes = list(model.graph.node)
        self._weights = {each.name: _wide(numpy_helper.to_array(each)) for each in model.graph.initializer}
        typed = onnx.shape_inference.infer_shapes(model).graph
        self._types = {each.name: each.type.tensor_type.elem_type for each in (*typed.value_info, *typed.output)}
        self._output, self._inputs = model.graph.output[0].name, [each.name for each in model.graph.input]
        self._sums, self._rounded, self._planted = sums, rounded, planted
        makers = {name: node for node in self._nodes for name in node.output}
        self._products = [
            node
            for node in self._nodes
            if node.op_type in ("Conv", "Gemm", "MatMul")
            and all(name in makers and makers[name].op_type == "DequantizeLinear" for name in node.input[:2])
        ]
        self._makers = makers
        self._readers: dict[str, list[NodeProto]] = {}
        for node in self._nodes:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)

    @property
    def places(self) -> int:
        """How many products are in FP8."""
        return len(self._products)

    def __call__(self, **inputs: Array) -> Array:
        values = {**self._weights, **{name: array.astype(np.float32) for name, array in inputs.items()}}
        with np.errstate(over="ignore"):
            for node in self._nodes:
                result = self._node(node, [values[name] if name else None for name in node.input])
                values[node.output[0]] = self._stored(node.output[0], result)
        return values[self._output]

    def _stored(self, name: str, array: Array) -> Array:
        """A result as the next node reads it."""
        if self._types.get(name) != TensorProto.FLOAT16 or array.dtype != np.float32:
            return array
        inside = {
            Rounded.ALL: (),
            Rounded.KERNELS: _ELEMENTWISE,
            Rounded.STORED: (*_ELEMENTWISE, "QuantizeLinear"),
        }[self._rounded]
        readers = self._readers.get(name, [])
        if readers and all(reader.op_type in inside for reader in readers):
            return array
        return array.astype(np.float16).astype(np.float32)

    def _node(self, node: NodeProto, given: list[Array | None]) -> Array:
        settings = {each.name: helper.get_attribute_value(each) for each in node.attribute}
        inputs = [each for each in given if each is not None]
        if node.op_type == "QuantizeLinear":
            return self._quantized(node, inputs)
        if node.op_type == "DequantizeLinear":
            return inputs[0].astype(np.float32) * (inputs[1] * self._factor(node)).astype(np.float32)
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            return self._product(node, inputs, settings)
        return _PLAIN[node.op_type](inputs, settings)

    def _hit(self, node: NodeProto) -> bool:
        """Whether a node belongs to the product with the fault."""
        return self._planted is not None and node is self._products[self._planted.place % len(self._products)]

    def _is(self, *faults: Fault) -> bool:
        return self._planted is not None and self._planted.fault in faults

    def _faulty_pair(self, node: NodeProto) -> bool:
        """Whether a node quantises or dequantises the activation of the product with the fault."""
        if self._planted is None:
            return False
        pair = self._makers[self._products[self._planted.place % len(self._products)].input[0]]
        return node is pair or node is self._makers.get(pair.input[0])

    def _factor(self, node: NodeProto) -> float:
        """By how much the scale of a pair is wrong."""
        if not self._faulty_pair(node):
            return 1.0
        if self._is(Fault.SCALE) and node.op_type == "DequantizeLinear":
            return (0.8, 1.25, 0.5, 2.0)[self._planted.place % 4] if self._planted else 1.0
        if self._is(Fault.STALE):
            return 0.25
        if self._is(Fault.SWAPPED) and self._planted and node.op_type == "DequantizeLinear":
            others = [self._makers[each.input[0]].input[1] for each in self._products]
            own = float(self._weights[node.input[1]])
            return max((float(self._weights[each]) / own for each in others), key=lambda ratio: abs(math.log(ratio)))
        return 1.0

    def _quantized(self, node: NodeProto, inputs: list[Array]) -> Array:
        scaled = inputs[0].astype(np.float32) / (inputs[1] * self._factor(node)).astype(np.float32)
        faulty = self._faulty_pair(node)
        clipped = scaled.clip(-240, 240) if faulty and self._is(Fault.SATURATED) else scaled.clip(-_LARGEST, _LARGEST)
        if faulty and self._is(Fault.E5M2):
            return clipped.astype(_E5M2).astype(np.float32)
        nearest = clipped.astype(_E4M3).astype(np.float32)
        if faulty and self._is(Fault.TRUNCATED):
            below = np.nextafter(np.abs(nearest).astype(_E4M3), _E4M3.type(0)).astype(np.float32)
            return np.where(np.abs(nearest) > np.abs(clipped), np.sign(nearest) * below, nearest)
        return nearest

    def _product(self, node: NodeProto, inputs: list[Array], settings: Mapping[str, Any]) -> Array:
        left, right, *rest = inputs
        bias = rest[0] if rest and not (self._hit(node) and self._is(Fault.NO_BIAS)) else None
        if self._hit(node) and self._is(Fault.ROLLED):
            right = np.roll(right, 1, axis=-1 if node.op_type == "MatMul" else 0)
        if self._hit(node) and self._is(Fault.TRANSPOSED):
            mirrored = node.op_type == "Conv" and right.shape[-1] > 1
            right = right[..., ::-1] if mirrored else np.roll(right, 1, axis=0 if node.op_type == "MatMul" else 1)
        if node.op_type == "Conv":
            return self._convolution(left, right, bias, settings)
        if node.op_type == "Gemm":
            right = right.T if settings.get("transB") else right
        summed = self._sum(left, right)
        return summed if bias is None else summed + bias

    def _convolution(self, image: Array, weight: Array, bias: Array | None, settings: Mapping[str, Any]) -> Array:
        pads, groups = settings.get("pads", [0] * 4), int(settings.get("group", 1))
        rows, columns = settings.get("strides", [1, 1])
        padded = np.pad(image, ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])))
        windows = np.lib.stride_tricks.sliding_window_view(padded, weight.shape[2:], axis=(2, 3))[
            :, :, ::rows, ::columns
        ]
        count, _, height, width = windows.shape[:4]
        parts = []
        for window, kernel in zip(np.split(windows, groups, 1), np.split(weight, groups, 0), strict=True):
            flat = window.transpose(0, 2, 3, 1, 4, 5).reshape(count * height * width, -1)
            parts.append(self._sum(flat, kernel.reshape(len(kernel), -1).T))
        joined = np.concatenate(parts, 1).reshape(count, height, width, -1).transpose(0, 3, 1, 2)
        return joined if bias is None else joined + bias.reshape(1, -1, 1, 1)

    def _sum(self, left: Array, right: Array) -> Array:
        if self._sums is Sums.FP32 or right.ndim > 2:
            return np.asarray(np.matmul(left, right))
        flat = left.reshape(-1, left.shape[-1])
        total = np.zeros((len(flat), right.shape[1]), np.float32)
        for begin in range(0, len(right), _BLOCK):
            block = slice(begin, begin + _BLOCK)
            terms = flat[:, block, None] * right[None, block, :]
            largest = np.abs(terms).max(axis=1, keepdims=True)
            unit = np.exp2(np.floor(np.log2(np.where(largest > 0, largest, 1.0))) - _BITS)
            total += (np.trunc(terms / unit) * unit).sum(axis=1, dtype=np.float32)
        return total.reshape(*left.shape[:-1], -1)


def _wide(array: Array) -> Array:
    """A constant in FP32, if it is floating point."""
    is_float = array.dtype.kind == "f" or array.dtype in (_E4M3, _E5M2)
    return array.astype(np.float32) if is_float else array


def _cast(inputs: list[Array], settings: Mapping[str, Any]) -> Array:
    kind = helper.tensor_dtype_to_np_dtype(settings["to"])
    return inputs[0] if kind.kind == "f" and inputs[0].dtype == np.float32 else _wide(inputs[0].astype(kind))


def _pooled(inputs: list[Array], settings: Mapping[str, Any]) -> Array:
    size, (stride, _) = settings["kernel_shape"], settings["strides"]
    windows = np.lib.stride_tricks.sliding_window_view(inputs[0], size, axis=(2, 3))
    return np.asarray(windows[:, :, ::stride, ::stride].max(axis=(4, 5)))


def _softmax(inputs: list[Array], settings: Mapping[str, Any]) -> Array:
    axis = settings.get("axis", -1)
    powers = np.exp(inputs[0] - inputs[0].max(axis=axis, keepdims=True))
    return np.asarray(powers / powers.sum(axis=axis, keepdims=True))


def _layer_norm(inputs: list[Array], settings: Mapping[str, Any]) -> Array:
    centred = inputs[0] - inputs[0].mean(axis=-1, keepdims=True)
    spread = np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + settings.get("epsilon", 1e-5))
    return np.asarray(centred / spread * inputs[1] + (inputs[2] if len(inputs) > 2 else 0))


def _mean(inputs: list[Array], settings: Mapping[str, Any]) -> Array:
    axes = tuple(int(axis) for axis in (inputs[1] if len(inputs) > 1 else settings["axes"]))
    return np.asarray(inputs[0].mean(axis=axes, keepdims=bool(settings.get("keepdims", 1))))


def _reshaped(inputs: list[Array], settings: Mapping[str, Any]) -> Array:
    return inputs[0].reshape([size or inputs[0].shape[axis] for axis, size in enumerate(inputs[1].tolist())])


_ERF = np.vectorize(math.erf, otypes=[np.float32])
_PLAIN: Mapping[str, Callable[[list[Array], Mapping[str, Any]], Array]] = {
    "Add": lambda x, _: x[0] + x[1],
    "Sub": lambda x, _: x[0] - x[1],
    "Mul": lambda x, _: x[0] * x[1],
    "Div": lambda x, _: x[0] / x[1],
    "Relu": lambda x, _: np.maximum(x[0], 0),
    "Sigmoid": lambda x, _: 1 / (1 + np.exp(-x[0])),
    "Erf": lambda x, _: _ERF(x[0]),
    "Identity": lambda x, _: x[0],
    "Cast": _cast,
    "Concat": lambda x, settings: np.concatenate(x, settings["axis"]),
    "Flatten": lambda x, _: x[0].reshape(len(x[0]), -1),
    "GlobalAveragePool": lambda x, _: x[0].mean(axis=(2, 3), keepdims=True),
    "LayerNormalization": _layer_norm,
    "MaxPool": _pooled,
    "ReduceMean": _mean,
    "Reshape": _reshaped,
    "Softmax": _softmax,
    "Transpose": lambda x, settings: x[0].transpose(settings["perm"]),
}
