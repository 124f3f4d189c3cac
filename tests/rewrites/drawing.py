"""Draws small graphs in FP64 with the motifs of other people's networks, and proves what a rewrite made of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from deploytool.rewrites import forms

SIZE = 8  # pixels a side


class Drawing:
    """A graph in the making: each call adds a node and gives the name of the tensor that it makes."""

    def __init__(self, channels: int, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.given = channels
        self.channels = {"picture": channels}
        self.sides = {"picture": SIZE}

    def op(self, op: str, *reads: str, makes: int = 1, scope: str = "net", **settings: Any) -> str:
        name = f"/{scope}/{op}_{len(self.nodes)}"
        outputs = [f"{name}_output_{place}" for place in range(makes)]
        self.nodes.append(helper.make_node(op, list(reads), outputs, name, **settings))
        for each in outputs:
            self.channels[each], self.sides[each] = self.channels.get(reads[0], 0), self.sides.get(reads[0], 0)
        return outputs[0]

    def weight(self, values: Any) -> str:
        name = f"weight_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def conv(
        self,
        source: str,
        outputs: int,
        kernel: int = 1,
        groups: int = 1,
        stride: int = 1,
        dilation: int = 1,
        pads: Sequence[int] | None = None,
        bias: bool = True,
    ) -> str:
        shape = (outputs, self.channels[source] // groups, kernel, kernel)
        reads = [source, self.weight(self.rng.normal(size=shape) / np.sqrt(np.prod(shape[1:])))]
        reads += [self.weight(self.rng.normal(size=outputs))] if bias else []
        ends = list(pads or [dilation * (kernel // 2)] * 4)
        sizes = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "dilations": [dilation] * 2}
        made = self.op("Conv", *reads, group=groups, pads=ends, **sizes)  # type: ignore[arg-type]  # none is `makes`
        self.channels[made] = outputs
        self.sides[made] = (self.sides[source] + ends[0] + ends[2] - dilation * (kernel - 1) - 1) // stride + 1
        return made

    def depthwise(self, source: str, kernel: int = 3, **more: Any) -> str:
        return self.conv(source, self.channels[source], kernel, self.channels[source], **more)

    def split(self, source: str, sizes: Sequence[int]) -> list[str]:
        self.op("Split", source, self.weight(np.array(sizes, np.int64)), makes=len(sizes), axis=1)
        made = list(self.nodes[-1].output)
        self.channels.update(zip(made, sizes, strict=True))
        return made

    def concat(self, *parts: str) -> str:
        made = self.op("Concat", *parts, axis=1)
        self.channels[made] = sum(self.channels[part] for part in parts)
        return made

    def norm(self, source: str) -> str:
        count = self.channels[source]
        line = [self.rng.uniform(0.5, 2, count), *self.rng.normal(size=(2, count)), self.rng.uniform(0.5, 2, count)]
        return self.op("BatchNormalization", source, *(self.weight(each) for each in line), epsilon=1e-3)

    def shuffle_by_sizes(self, source: str, groups: int) -> str:
        """A shuffle that asks the tensor for its sizes, as PyTorch's `flatten` and `x.size()` are exported."""
        count, side = self.channels[source], self.sides[source]
        batch = self.op("Gather", self.op("Shape", source), self.weight(np.array([0])), axis=0)
        dealt = self.op("Concat", batch, self.weight(np.array([groups, count // groups, side, side])), axis=0)
        turned = self.op("Transpose", self.op("Reshape", source, dealt), perm=[0, 2, 1, 3, 4])
        first = self.op("Slice", self.op("Shape", turned), *(self.weight(np.array([at])) for at in (0, 1, 0)))
        rest = self.weight(np.array([-1, side, side]))
        made = self.op("Reshape", turned, self.op("Concat", first, rest, axis=0))
        self.channels[made], self.sides[made] = count, side
        return made

    def shuffle(self, source: str, groups: int) -> str:
        count, side = self.channels[source], self.sides[source]
        dealt = self.weight(np.array([-1, groups, count // groups, side, side]))
        turned = self.op("Transpose", self.op("Reshape", source, dealt), perm=[0, 2, 1, 3, 4])
        made = self.op("Reshape", turned, self.weight(np.array([-1, count, side, side])))
        self.channels[made], self.sides[made] = count, side
        return made

    def model(self, *results: str) -> onnx.ModelProto:
        shape: list[str | int | None] = ["batch", self.given, SIZE, SIZE]
        graph = helper.make_graph(
            self.nodes,
            "graph",
            [helper.make_tensor_value_info("picture", TensorProto.DOUBLE, shape)],
            [helper.make_tensor_value_info(result, TensorProto.DOUBLE, None) for result in results],
            self.weights,
        )
        bare = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
        return onnx.shape_inference.infer_shapes(bare, strict_mode=True)


def answers(model: onnx.ModelProto, names: Sequence[str] | None = None) -> list[Any]:
    """What the graph makes of two pictures, in FP64, one operator at a time: its outputs, or these tensors."""
    channels = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    pictures = np.random.default_rng(7).normal(size=(2, channels, SIZE, SIZE))
    return list(ReferenceEvaluator(model).run(list(names) if names else None, {"picture": pictures}))


def tensors(model: onnx.ModelProto) -> dict[str, Any]:
    """Every tensor that the graph makes on the way."""
    names = [name for node in model.graph.node for name in node.output]
    return dict(zip(names, answers(model, names), strict=True))


def proved(model: onnx.ModelProto, name: str, fired: int) -> onnx.ModelProto:
    """The graph after a rewrite that fires so often and changes no answer beyond the rounding of FP64."""
    untouched = model.SerializeToString(deterministic=True)
    after, outcomes = forms.rewrite(model, [name])
    assert len(outcomes[name].fired) == fired
    assert outcomes[name].fired[-1] in {node.name for node in after.graph.node}  # the others may be edited again
    onnx.checker.check_model(after, full_check=True)
    names = [node.name for node in after.graph.node]
    assert len(set(names)) == len(names)
    for got, expected in zip(answers(after), answers(model), strict=True):
        assert np.abs(got - expected).max() <= 1e-12 * max(1.0, np.abs(expected).max())
    assert model.SerializeToString(deterministic=True) == untouched
    return after


def refused(model: onnx.ModelProto, name: str, why: str) -> None:
    """The rewrite leaves the graph as it is, byte for byte, and says why."""
    untouched = model.SerializeToString(deterministic=True)
    after, outcomes = forms.rewrite(model, [name])
    assert after.SerializeToString(deterministic=True) == untouched
    assert outcomes[name].fired == ()
    assert any(why in line for line in outcomes[name].passed), outcomes[name].passed


def kinds(model: onnx.ModelProto) -> list[str]:
    """The operators of a graph, in order."""
    return [node.op_type for node in model.graph.node]
