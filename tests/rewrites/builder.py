"""Builds small FP64 graphs with the motifs of common networks, and checks what a rewrite makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from deploytool.rewrites import forms

SIZE = 8  # height and width of the input, in pixels


class GraphBuilder:
    """Builds a graph with the input `image`; each method adds nodes and returns the name of their output tensor."""

    def __init__(self, channels: int, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.in_channels = channels
        self.channels = {"image": channels}
        self.sizes = {"image": SIZE}

    def op(self, op: str, *inputs: str, outputs: int = 1, scope: str = "net", **settings: Any) -> str:
        name = f"/{scope}/{op}_{len(self.nodes)}"
        names = [f"{name}_output_{index}" for index in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, name, **settings))
        for output in names:
            self.channels[output] = self.channels.get(inputs[0], 0)
            self.sizes[output] = self.sizes.get(inputs[0], 0)
        return names[0]

    def weight(self, values: Any) -> str:
        name = f"weight_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def conv(
        self,
        source: str,
        channels: int,
        kernel: int = 1,
        groups: int = 1,
        stride: int = 1,
        dilation: int = 1,
        pads: Sequence[int] | None = None,
        bias: bool = True,
    ) -> str:
        shape = (channels, self.channels[source] // groups, kernel, kernel)
        inputs = [source, self.weight(self.rng.normal(size=shape) / np.sqrt(np.prod(shape[1:])))]
        inputs += [self.weight(self.rng.normal(size=channels))] if bias else []
        padding = list(pads or [dilation * (kernel // 2)] * 4)
        settings: dict[str, Any] = {
            "kernel_shape": [kernel] * 2,
            "strides": [stride] * 2,
            "dilations": [dilation] * 2,
        }
        output = self.op("Conv", *inputs, group=groups, pads=padding, **settings)
        self.channels[output] = channels
        span = dilation * (kernel - 1) + 1
        self.sizes[output] = (self.sizes[source] + padding[0] + padding[2] - span) // stride + 1
        return output

    def depthwise(self, source: str, kernel: int = 3, **settings: Any) -> str:
        return self.conv(source, self.channels[source], kernel, self.channels[source], **settings)

    def split(self, source: str, sizes: Sequence[int]) -> list[str]:
        self.op("Split", source, self.weight(np.array(sizes, np.int64)), outputs=len(sizes), axis=1)
        outputs = list(self.nodes[-1].output)
        self.channels.update(zip(outputs, sizes, strict=True))
        return outputs

    def concat(self, *parts: str) -> str:
        output = self.op("Concat", *parts, axis=1)
        self.channels[output] = sum(self.channels[part] for part in parts)
        return output

    def norm(self, source: str) -> str:
        count = self.channels[source]
        scale, (shift, mean) = self.rng.uniform(0.5, 2, count), self.rng.normal(size=(2, count))
        parameters = [scale, shift, mean, self.rng.uniform(0.5, 2, count)]
        return self.op("BatchNormalization", source, *(self.weight(values) for values in parameters), epsilon=1e-3)

    def shuffle_by_sizes(self, source: str, groups: int) -> str:
        """A shuffle that computes its target shape with Shape, as PyTorch's `flatten` and `x.size()` are exported."""
        count, size = self.channels[source], self.sizes[source]
        batch = self.op("Gather", self.op("Shape", source), self.weight(np.array([0])), axis=0)
        split = self.op("Concat", batch, self.weight(np.array([groups, count // groups, size, size])), axis=0)
        transposed = self.op("Transpose", self.op("Reshape", source, split), perm=[0, 2, 1, 3, 4])
        first = self.op("Slice", self.op("Shape", transposed), *(self.weight(np.array([at])) for at in (0, 1, 0)))
        rest = self.weight(np.array([-1, size, size]))
        output = self.op("Reshape", transposed, self.op("Concat", first, rest, axis=0))
        self.channels[output], self.sizes[output] = count, size
        return output

    def shuffle(self, source: str, groups: int) -> str:
        count, size = self.channels[source], self.sizes[source]
        split = self.weight(np.array([-1, groups, count // groups, size, size]))
        transposed = self.op("Transpose", self.op("Reshape", source, split), perm=[0, 2, 1, 3, 4])
        output = self.op("Reshape", transposed, self.weight(np.array([-1, count, size, size])))
        self.channels[output], self.sizes[output] = count, size
        return output

    def model(self, *results: str) -> onnx.ModelProto:
        shape: list[str | int | None] = ["batch", self.in_channels, SIZE, SIZE]
        graph = helper.make_graph(
            self.nodes,
            "graph",
            [helper.make_tensor_value_info("image", TensorProto.DOUBLE, shape)],
            [helper.make_tensor_value_info(result, TensorProto.DOUBLE, None) for result in results],
            self.weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
        return onnx.shape_inference.infer_shapes(model, strict_mode=True)


def evaluate(model: onnx.ModelProto, names: Sequence[str] | None = None) -> list[Any]:
    """The graph's outputs, or the named tensors, for two images, in FP64 by ONNX's reference evaluator."""
    channels = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    images = np.random.default_rng(7).normal(size=(2, channels, SIZE, SIZE))
    return list(ReferenceEvaluator(model).run(list(names) if names else None, {"image": images}))


def evaluate_all(model: onnx.ModelProto) -> dict[str, Any]:
    """The values of all computed tensors, by name."""
    names = [name for node in model.graph.node for name in node.output]
    return dict(zip(names, evaluate(model, names), strict=True))


def assert_exact(model: onnx.ModelProto, name: str, applied: int) -> onnx.ModelProto:
    """The graph after a rewrite, which must apply `applied` times and change outputs by FP64 rounding at most."""
    before = model.SerializeToString(deterministic=True)
    after, outcomes = forms.rewrite(model, [name])
    assert len(outcomes[name].applied) == applied
    assert outcomes[name].applied[-1] in {node.name for node in after.graph.node}  # earlier ones may be replaced again
    onnx.checker.check_model(after, full_check=True)
    names = [node.name for node in after.graph.node]
    assert len(set(names)) == len(names)
    for output, expected in zip(evaluate(after), evaluate(model), strict=True):
        assert np.abs(output - expected).max() <= 1e-12 * max(1.0, np.abs(expected).max())
    assert model.SerializeToString(deterministic=True) == before
    return after


def assert_skipped(model: onnx.ModelProto, name: str, reason: str) -> None:
    """The rewrite must leave the graph unchanged, byte for byte, and give the reason."""
    before = model.SerializeToString(deterministic=True)
    after, outcomes = forms.rewrite(model, [name])
    assert after.SerializeToString(deterministic=True) == before
    assert outcomes[name].applied == ()
    assert any(reason in line for line in outcomes[name].skipped), outcomes[name].skipped


def op_types(model: onnx.ModelProto) -> list[str]:
    """The operators of a graph, in order."""
    return [node.op_type for node in model.graph.node]
