"""Small random networks and their Q/DQ graphs, as ONNX Runtime quantises them."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper
from onnxruntime import quantization
from onnxruntime.quantization import QuantFormat, QuantType

Array = npt.NDArray[Any]


class Form(Enum):
    """Types of activations and weights, whether activations are symmetric, and whether weights have 7 bits."""

    U8S8 = (QuantType.QUInt8, QuantType.QInt8, False, False)
    U8S7 = (QuantType.QUInt8, QuantType.QInt8, False, True)
    U8U8 = (QuantType.QUInt8, QuantType.QUInt8, False, False)
    S8S8 = (QuantType.QInt8, QuantType.QInt8, False, False)
    TENSORRT = (QuantType.QInt8, QuantType.QInt8, True, False)


class Network:
    """A graph under construction, with weights of its own random stream."""

    def __init__(self, seed: int, channels: int = 3, size: int = 8) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[NodeProto] = []
        self.weights: list[TensorProto] = []
        self.input = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", channels, size, size])
        self.last, self.channels, self.size = "image", channels, size

    def node(self, op: str, inputs: Sequence[str], **settings: Any) -> str:
        name = f"{op.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [f"{name}_out"], name, **settings))
        self.last = f"{name}_out"
        return self.last

    def weight(self, values: Array) -> str:
        name = f"weight{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def weights_of(self, name: str, values: Array) -> str:
        """Adds a constant of any type."""
        name = f"{name}{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def conv(self, channels: int, kernel: int = 3, groups: int = 1, stride: int = 1, bias: bool = True) -> str:
        shape = (channels, self.channels // groups, kernel, kernel)
        spread = self.rng.lognormal(0, 0.5, (channels, 1, 1, 1)) / np.sqrt(np.prod(shape[1:]))
        inputs = [self.last, self.weight(self.rng.standard_normal(shape) * spread * 1.4)]
        inputs += [self.weight(self.rng.standard_normal(channels) * 0.1)] if bias else []
        pads, strides = [kernel // 2] * 4, [stride, stride]
        self.channels, self.size = channels, (self.size + 2 * (kernel // 2) - kernel) // stride + 1
        return self.node("Conv", inputs, pads=pads, strides=strides, group=groups, kernel_shape=[kernel, kernel])

    def dense(self, classes: int, features: int) -> str:
        weight = self.weight(self.rng.standard_normal((classes, features)) / np.sqrt(features))
        return self.node(
            "Gemm", [self.last, weight, self.weight(self.rng.standard_normal(classes) * 0.1)], transB=1, alpha=1.0
        )

    def model(self) -> onnx.ModelProto:
        output = helper.make_tensor_value_info(self.last, TensorProto.FLOAT, None)
        graph = helper.make_graph(self.nodes, "network", [self.input], [output], self.weights)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        return onnx.shape_inference.infer_shapes(made)


def network(seed: int, blocks: int = 2, classes: int = 10, *, pooled: bool = True) -> onnx.ModelProto:
    """A convolutional network with residual, depthwise and concatenated blocks of random widths.

    Without `pooled` its classifier reads all pixels, and no node averages.
    """
    net = Network(seed)
    net.conv(8 + 4 * int(net.rng.integers(0, 3)), stride=2)
    net.node("Relu", [net.last])
    for _ in range(blocks):
        _BLOCKS[int(net.rng.integers(0, len(_BLOCKS)))](net)
    net.node("MaxPool", [net.last], kernel_shape=[2, 2], strides=[2, 2])
    net.size //= 2
    if pooled:
        net.node("GlobalAveragePool", [net.last])
        net.size = 1
    net.node("Flatten", [net.last], axis=1)
    net.dense(classes, net.channels * net.size**2)
    return net.model()


def _residual(net: Network) -> None:
    before = net.last
    net.conv(net.channels)
    net.node("Relu", [net.last])
    net.conv(net.channels, 1, bias=False)
    net.node("Relu", [net.node("Add", [net.last, before])])


def _separable(net: Network) -> None:
    net.conv(net.channels, groups=net.channels)
    net.node("Relu", [net.last])
    net.conv(net.channels + 4, 1)


def _branches(net: Network) -> None:
    before, channels = net.last, net.channels
    left = net.node("Relu", [net.conv(6, 3)])
    net.last, net.channels = before, channels
    right = net.conv(6, 1)
    net.node("Concat", [left, right], axis=1)
    net.channels = 12


_BLOCKS: tuple[Callable[[Network], None], ...] = (_residual, _separable, _branches)


def pictures(seed: int, count: int, channels: int = 3, size: int = 8) -> Array:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((count, channels, size, size)).astype(np.float32)


class _Reader(quantization.CalibrationDataReader):  # type: ignore[misc]  # the library has no types
    def __init__(self, images: Array) -> None:
        self._batches: Iterator[dict[str, Array]] = iter([{"image": images}])

    def get_next(self) -> dict[str, Array] | None:
        return next(self._batches, None)


def quantised(model: onnx.ModelProto, folder: Path, form: Form = Form.U8S8, excluded: Sequence[str] = ()) -> Path:
    """The file of the Q/DQ graph of a model, with ranges from 16 random pictures."""
    source, result = folder / "source.onnx", folder / f"{form.name.lower()}.onnx"
    onnx.save(model, source)
    activation, weight, symmetric, reduced = form.value
    options = {"ActivationSymmetric": symmetric, "QuantizeBias": not symmetric, "AddQDQPairToWeight": symmetric}
    settings = {"quant_format": QuantFormat.QDQ, "activation_type": activation, "weight_type": weight}
    logging.getLogger().setLevel(logging.ERROR)  # it recommends a preparation that these graphs do not need
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantization.quantize_static(
            source,
            result,
            _Reader(pictures(1000, 16, model.graph.input[0].type.tensor_type.shape.dim[1].dim_value)),
            per_channel=True,
            reduce_range=reduced,
            nodes_to_exclude=list(excluded),
            extra_options=options,
            **settings,
        )
    return result


def with_binary_scales(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose scales are powers of two: then no sum of an 8-bit layer has a rounding error in FP32."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    scales = {node.input[1] for node in copy.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")}
    for weight in copy.graph.initializer:
        if weight.name in scales:
            values = np.exp2(np.round(np.log2(numpy_helper.to_array(weight))))
            weight.CopyFrom(numpy_helper.from_array(values.astype(np.float32), weight.name))
    return copy
