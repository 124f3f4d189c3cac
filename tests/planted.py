"""Small ONNX graphs with a tensor that FP16 cannot represent, each in another place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = npt.NDArray[Any]
UP, DOWN = 2.0**20, 2.0**-20
CHANNELS, CLASSES = 4, 5


class GraphBuilder:
    """Builds a graph: every method adds nodes that read the given tensors, and returns the name of their output."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._random = np.random.default_rng(0)

    def put(self, op: str, *inputs: str, **attributes: Any) -> str:
        name = f"/{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [f"{name}_output"], name, **attributes))
        return f"{name}_output"

    def weight(self, values: Array) -> str:
        self.weights.append(numpy_helper.from_array(np.asarray(values, np.float32), f"weight_{len(self.weights)}"))
        return self.weights[-1].name

    def filters(self, inputs: int = CHANNELS, outputs: int = CHANNELS, scale: float = 1.0) -> Array:
        values = self._random.normal(size=(outputs, inputs, 1, 1)) / np.sqrt(inputs)
        return np.asarray(values * scale, np.float32)

    def conv(self, x: str, inputs: int = CHANNELS, scale: float = 1.0) -> str:
        return self.put("Conv", x, self.weight(self.filters(inputs, scale=scale)))

    def relu(self, x: str) -> str:
        return self.put("Relu", x)

    def head(self, x: str, scale: float = 1.0) -> str:
        pooled = self.put("ReduceMean", x, self.axes(), keepdims=0)
        return self.put("MatMul", pooled, self.weight(self.filters(outputs=CLASSES, scale=scale)[:, :, 0, 0].T))

    def axes(self) -> str:
        self.weights.append(numpy_helper.from_array(np.array([2, 3], np.int64), f"axes_{len(self.weights)}"))
        return self.weights[-1].name

    def done(self, last: str) -> onnx.ModelProto:
        self.nodes[-1].output[0] = "logits"
        assert last == f"{self.nodes[-1].name}_output"
        graph = helper.make_graph(
            self.nodes,
            "planted",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, 8, 8])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])],
            self.weights,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def sound() -> onnx.ModelProto:
    builder = GraphBuilder()
    x = builder.relu(builder.conv("input", 3))
    return builder.done(builder.head(builder.relu(builder.conv(builder.relu(builder.conv(x))))))


def between_layers() -> onnx.ModelProto:
    builder = GraphBuilder()
    x = builder.relu(builder.conv("input", 3))
    x = builder.relu(builder.conv(x, scale=UP))
    return builder.done(builder.head(builder.relu(builder.conv(x, scale=DOWN))))


def gate() -> onnx.ModelProto:
    builder = GraphBuilder()
    x = builder.conv("input", 3)
    squeezed = builder.relu(builder.conv(builder.put("GlobalAveragePool", x), scale=UP))
    opened = builder.put("Sigmoid", builder.conv(squeezed, scale=DOWN))
    return builder.done(builder.head(builder.put("Mul", x, opened)))


def pooled_sum() -> onnx.ModelProto:
    builder = GraphBuilder()
    x = builder.relu(builder.conv(builder.relu(builder.conv("input", 3)), scale=4000.0))
    added = builder.put("ReduceSum", x, builder.axes())
    x = builder.relu(builder.conv(added, scale=1e-5))
    return builder.done(builder.head(x))


def residual() -> onnx.ModelProto:
    builder = GraphBuilder()
    x = builder.relu(builder.conv("input", 3))
    joined = builder.put("Add", builder.conv(x, scale=UP), builder.conv(x, scale=UP))
    return builder.done(builder.head(builder.conv(joined, scale=DOWN)))


def classifier() -> onnx.ModelProto:
    builder = GraphBuilder()
    x = builder.relu(builder.conv(builder.relu(builder.conv("input", 3))))
    return builder.done(builder.head(builder.relu(builder.conv(x)), scale=UP))


def clipped() -> onnx.ModelProto:
    builder = GraphBuilder()
    x = builder.relu(builder.conv("input", 3))
    x = builder.put("Clip", builder.conv(x, scale=UP), builder.weight(np.array(0.0)), builder.weight(np.array(6.0)))
    return builder.done(builder.head(builder.relu(builder.conv(x))))


def coarse() -> onnx.ModelProto:
    """Adds 1000 and subtracts it again: nothing overflows, but FP16 loses the digits."""
    builder = GraphBuilder()
    x = builder.relu(builder.conv("input", 3))
    lifted = builder.put("Add", builder.conv(x), builder.weight(np.full((1, CHANNELS, 1, 1), 1000.0)))
    lowered = builder.put("Sub", lifted, builder.weight(np.full((1, CHANNELS, 1, 1), 1000.0)))
    return builder.done(builder.head(builder.relu(lowered)))


def large_weight() -> onnx.ModelProto:
    """All values are small except one weight, which FP16 would clip."""
    builder = GraphBuilder()
    x = builder.relu(builder.conv(builder.conv("input", 3, scale=DOWN), scale=UP))
    return builder.done(builder.head(builder.relu(builder.conv(x))))


def shared_weight() -> onnx.ModelProto:
    """Two layers share a weight, and the output of the second is too large."""
    builder = GraphBuilder()
    filters = builder.weight(builder.filters(scale=600.0))
    x = builder.relu(builder.put("Conv", builder.relu(builder.conv("input", 3)), filters))
    return builder.done(builder.head(builder.conv(builder.put("Conv", x, filters), scale=1e-5)))


PLANTS: tuple[Callable[[], onnx.ModelProto], ...] = (
    *(between_layers, gate, pooled_sum, residual, classifier, clipped, coarse, large_weight, shared_weight),
)


def images(cases: int = 4) -> dict[str, Array]:
    return {"input": np.random.default_rng(1).normal(size=(cases, 3, 8, 8)).astype(np.float32)}
