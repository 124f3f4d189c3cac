"""Small convolutional networks as ONNX graphs, with the batch norms of networks that have seen pictures."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping
from functools import cache

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import Tensor, nn

from deploytool.backends.session import Array
from deploytool.data import images
from deploytool.spec import Preprocessing

SIDE = 32
HOW = Preprocessing(resize=SIDE, crop=SIDE)


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]


def head(channels: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10)]


class Residual(nn.Module):
    def __init__(self, channels: int, body: list[nn.Module], after: nn.Module) -> None:
        super().__init__()
        self.body, self.after = nn.Sequential(*body), after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(x + self.body(x))  # type: ignore[no-any-return]  # a Module call


class Gate(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.body = nn.Sequential(nn.Conv2d(channels, 4, 1), nn.ReLU(), nn.Conv2d(4, channels, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.body(self.pool(x))  # type: ignore[no-any-return]  # a Module call


def separable() -> nn.Module:
    """Depthwise and pointwise convolutions in turn, as in MobileNet v1."""
    layers = [*conv(3, 8, stride=2), nn.ReLU()]
    for inputs, outputs in ((8, 16), (16, 24)):
        layers += [*conv(inputs, inputs, groups=inputs), nn.ReLU(), *conv(inputs, outputs, 1), nn.ReLU()]
    return nn.Sequential(*layers, *head(24))


def residual() -> nn.Module:
    """Basic blocks, as in ResNet, with one depthwise convolution."""
    layers = [*conv(3, 16, stride=2), nn.ReLU(), *conv(16, 16, groups=16), nn.ReLU()]
    layers += [Residual(16, [*conv(16, 16), nn.ReLU(), *conv(16, 16)], nn.ReLU()) for _ in range(2)]
    return nn.Sequential(*layers, *head(16))


def inverted() -> nn.Module:
    """Inverted bottlenecks with gates, as in MobileNet v3."""
    layers = [*conv(3, 12, stride=2), nn.ReLU()]
    for _ in range(2):
        body = [*conv(12, 24, 1), nn.ReLU(), *conv(24, 24, groups=24), nn.ReLU(), Gate(24), *conv(24, 12, 1)]
        layers.append(Residual(12, body, nn.Identity()))
    return nn.Sequential(*layers, *head(12))


NETS: Mapping[str, Callable[[], nn.Module]] = {"separable": separable, "residual": residual, "inverted": inverted}


@cache
def pixels(count: int, seed: int) -> images.Pixels:
    return images.dead_leaves(count, SIDE, SIDE, seed)


@cache
def pictures(count: int, seed: int) -> Array:
    return images.normalise(pixels(count, seed), HOW)


def export(make: Callable[[], nn.Module], seed: int) -> onnx.ModelProto:
    """The graph of a network with seeded weights; its input is `input`, its output `logits`."""
    torch.manual_seed(seed)
    module = make()
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None  # the mean of all batches
            nn.init.uniform_(layer.weight, 0.3, 1.5)
            nn.init.normal_(layer.bias, 0.0, 0.3)
    shown = torch.from_numpy(pictures(16, 90_000))
    with torch.no_grad():
        module.train()(shown)
    written = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            (shown[:1],),
            written,  # type: ignore[arg-type]  # torch takes buffers too
            dynamo=False,
            input_names=["input"],
            output_names=["logits"],
            dynamic_axes={"input": {0: "batch"}, "logits": {0: "batch"}},
            opset_version=17,
        )
    return onnx.load_from_string(written.getvalue())


def activations(graph: onnx.ModelProto) -> tuple[str, ...]:
    """The floating-point tensors that depend on the input, itself included."""
    inferred = onnx.shape_inference.infer_shapes(graph).graph
    floats = {
        value.name
        for value in (*inferred.value_info, *inferred.output)
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    }
    return ("input", *(name for node in graph.graph.node for name in node.output if name in floats))


def run(graph: onnx.ModelProto, inputs: Array) -> Array:
    """The first output, computed by ONNX Runtime without optimisation."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"input": inputs})[0])
