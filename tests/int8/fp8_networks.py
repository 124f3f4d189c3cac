"""Random networks for the campaign of FP8: transformers, gated depthwise, residual and branched convolutions."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx

from tests.int8.quantized import Network

SIZE = 16  # of the pictures


def transformer(seed: int) -> onnx.ModelProto:
    """Patches, two blocks of attention and a perceptron with GELU, and a classifier of the mean token."""
    net = Network(seed, size=SIZE)
    width = 16 + 8 * int(net.rng.integers(0, 3))
    patches = net.conv(width, kernel=3, stride=2)
    shape = net.weights_of("shape", np.array([0, width, -1], np.int64))
    net.node("Transpose", [net.node("Reshape", [patches, shape])], perm=[0, 2, 1])
    for _ in range(2):
        before = net.last
        _attention(net, width)
        before = net.node("Add", [net.last, before])
        _perceptron(net, width)
        net.node("Add", [net.last, before])
    axes = net.weights_of("axes", np.array([1], np.int64))
    net.node("ReduceMean", [_norm(net, width), axes], keepdims=0)
    net.dense(10, width)
    return net.model()


def _norm(net: Network, width: int) -> str:
    gain, shift = (net.weight(net.rng.normal(mean, 0.2, width)) for mean in (1.0, 0.0))
    return net.node("LayerNormalization", [net.last, gain, shift], axis=-1, epsilon=1e-5)


def _linear(net: Network, tensor: str, inputs: int, outputs: int) -> str:
    weight = net.weight(net.rng.standard_normal((inputs, outputs)) / np.sqrt(inputs))
    product = net.node("MatMul", [tensor, weight])
    return net.node("Add", [product, net.weight(net.rng.normal(0, 0.1, outputs))])


def _attention(net: Network, width: int) -> None:
    normal = _norm(net, width)
    query, key, value = (_linear(net, normal, width, width) for _ in range(3))
    scores = net.node("MatMul", [query, net.node("Transpose", [key], perm=[0, 2, 1])])
    scaled = net.node("Mul", [scores, net.weight(np.array(width**-0.5))])
    mixed = net.node("MatMul", [net.node("Softmax", [scaled], axis=-1), value])
    _linear(net, mixed, width, width)


def _perceptron(net: Network, width: int) -> None:
    hidden = _linear(net, _norm(net, width), width, 2 * width)
    inner = net.node("Erf", [net.node("Mul", [hidden, net.weight(np.array(2**-0.5))])])
    half = net.node("Mul", [hidden, net.weight(np.array(0.5))])
    grown = net.node("Add", [inner, net.weight(np.array(1.0))])
    _linear(net, net.node("Mul", [half, grown]), 2 * width, width)


def gated(seed: int) -> onnx.ModelProto:
    """Inverted bottlenecks with depthwise convolutions, x * sigmoid(x) and gates, as in MixNet and EfficientNet."""
    net = Network(seed, size=SIZE)
    net.conv(12, stride=2)
    _swish(net)
    for _ in range(2 + int(net.rng.integers(0, 2))):
        before, width = net.last, net.channels
        net.conv(3 * width, 1)
        _swish(net)
        net.conv(net.channels, kernel=(3, 5)[int(net.rng.integers(0, 2))], groups=net.channels)
        _gate(net, _swish(net))
        net.conv(width, 1)
        net.node("Add", [net.last, before])
    return _classified(net)


def _swish(net: Network) -> str:
    return net.node("Mul", [net.last, net.node("Sigmoid", [net.last])])


def _gate(net: Network, tensor: str) -> None:
    channels, size = net.channels, net.size
    net.node("GlobalAveragePool", [tensor])
    net.size = 1
    net.conv(4, 1)
    net.node("Relu", [net.last])
    net.conv(channels, 1)
    net.node("Mul", [tensor, net.node("Sigmoid", [net.last])])
    net.channels, net.size = channels, size


def residual(seed: int) -> onnx.ModelProto:
    """Basic blocks, as in ResNet, of 3 to 6 convolutions."""
    net = Network(seed, size=SIZE)
    net.conv(16, stride=2)
    net.node("Relu", [net.last])
    for _ in range(1 + int(net.rng.integers(0, 2))):
        before = net.last
        net.conv(net.channels)
        net.node("Relu", [net.last])
        net.conv(net.channels)
        net.node("Relu", [net.node("Add", [net.last, before])])
    return _classified(net)


def branched(seed: int) -> onnx.ModelProto:
    """Fire modules, as in SqueezeNet."""
    net = Network(seed, size=SIZE)
    net.conv(16, stride=2)
    net.node("Relu", [net.last])
    for _ in range(2 + int(net.rng.integers(0, 2))):
        squeezed = (net.conv(6, 1), net.node("Relu", [net.last]))[1]
        ends = []
        for kernel in (1, 3):
            net.last, net.channels = squeezed, 6
            net.conv(10, kernel)
            ends.append(net.node("Relu", [net.last]))
        net.node("Concat", ends, axis=1)
        net.channels = 20
    return _classified(net)


def separable(seed: int) -> onnx.ModelProto:
    """Depthwise and pointwise convolutions in turn, as in MobileNet v1."""
    net = Network(seed, size=SIZE)
    net.conv(12, stride=2)
    net.node("Relu", [net.last])
    for _ in range(3 + int(net.rng.integers(0, 3))):
        net.conv(net.channels, groups=net.channels)
        net.node("Relu", [net.last])
        net.conv(net.channels + 4, 1)
        net.node("Relu", [net.last])
    return _classified(net)


def dense(seed: int) -> onnx.ModelProto:
    """Convolutions that read all that came before, as in DenseNet, with grouped ones and pooling."""
    net = Network(seed, size=SIZE)
    net.conv(12)
    known = net.node("Relu", [net.last])
    for _ in range(3):
        before = net.channels
        net.last = known
        net.conv(8, groups=(1, 2)[int(net.rng.integers(0, 2))])
        known = net.node("Concat", [known, net.node("Relu", [net.last])], axis=1)
        net.channels = before + 8
    net.node("MaxPool", [known], kernel_shape=[2, 2], strides=[2, 2])
    net.size //= 2
    net.node("Relu", [net.conv(24, 1)])
    return _classified(net)


def _classified(net: Network) -> onnx.ModelProto:
    net.node("Flatten", [net.node("GlobalAveragePool", [net.last])], axis=1)
    net.dense(10, net.channels)
    return net.model()


KINDS: Mapping[str, Callable[[int], onnx.ModelProto]] = {
    "transformer": transformer,
    "gated": gated,
    "residual": residual,
    "branched": branched,
    "separable": separable,
    "dense": dense,
}
