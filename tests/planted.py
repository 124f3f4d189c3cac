"""Small graphs with a tensor that FP16 cannot hold, each in another place, as ONNX by hand."""

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


class Drawing:
    """A graph as it grows: every method adds a node behind the last tensor, or behind those it is given."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._random = np.random.default_rng(0)

    def put(self, op: str, *given: str, **attributes: Any) -> str:
        name = f"/{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, given, [f"{name}_output"], name, **attributes))
        return f"{name}_output"

    def weight(self, values: Array) -> str:
        self.weights.append(numpy_helper.from_array(np.asarray(values, np.float32), f"weight_{len(self.weights)}"))
        return self.weights[-1].name

    def filters(self, given: int = CHANNELS, made: int = CHANNELS, scale: float = 1.0) -> Array:
        drawn = self._random.normal(size=(made, given, 1, 1)) / np.sqrt(given)
        return np.asarray(drawn * scale, np.float32)

    def conv(self, x: str, given: int = CHANNELS, scale: float = 1.0) -> str:
        return self.put("Conv", x, self.weight(self.filters(given, scale=scale)))

    def relu(self, x: str) -> str:
        return self.put("Relu", x)

    def head(self, x: str, scale: float = 1.0) -> str:
        pooled = self.put("ReduceMean", x, self.axes(), keepdims=0)
        return self.put("MatMul", pooled, self.weight(self.filters(made=CLASSES, scale=scale)[:, :, 0, 0].T))

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
    draw = Drawing()
    x = draw.relu(draw.conv("input", 3))
    return draw.done(draw.head(draw.relu(draw.conv(draw.relu(draw.conv(x))))))


def between_layers() -> onnx.ModelProto:
    draw = Drawing()
    x = draw.relu(draw.conv("input", 3))
    x = draw.relu(draw.conv(x, scale=UP))
    return draw.done(draw.head(draw.relu(draw.conv(x, scale=DOWN))))


def gate() -> onnx.ModelProto:
    draw = Drawing()
    x = draw.conv("input", 3)
    squeezed = draw.relu(draw.conv(draw.put("GlobalAveragePool", x), scale=UP))
    opened = draw.put("Sigmoid", draw.conv(squeezed, scale=DOWN))
    return draw.done(draw.head(draw.put("Mul", x, opened)))


def pooled_sum() -> onnx.ModelProto:
    draw = Drawing()
    x = draw.relu(draw.conv(draw.relu(draw.conv("input", 3)), scale=4000.0))
    added = draw.put("ReduceSum", x, draw.axes())
    x = draw.relu(draw.conv(added, scale=1e-5))
    return draw.done(draw.head(x))


def residual() -> onnx.ModelProto:
    draw = Drawing()
    x = draw.relu(draw.conv("input", 3))
    joined = draw.put("Add", draw.conv(x, scale=UP), draw.conv(x, scale=UP))
    return draw.done(draw.head(draw.conv(joined, scale=DOWN)))


def classifier() -> onnx.ModelProto:
    draw = Drawing()
    x = draw.relu(draw.conv(draw.relu(draw.conv("input", 3))))
    return draw.done(draw.head(draw.relu(draw.conv(x)), scale=UP))


def clipped() -> onnx.ModelProto:
    draw = Drawing()
    x = draw.relu(draw.conv("input", 3))
    x = draw.put("Clip", draw.conv(x, scale=UP), draw.weight(np.array(0.0)), draw.weight(np.array(6.0)))
    return draw.done(draw.head(draw.relu(draw.conv(x))))


def coarse() -> onnx.ModelProto:
    """A thousand is added and taken away again: nothing overflows, and nothing is left of the digits."""
    draw = Drawing()
    x = draw.relu(draw.conv("input", 3))
    lifted = draw.put("Add", draw.conv(x), draw.weight(np.full((1, CHANNELS, 1, 1), 1000.0)))
    lowered = draw.put("Sub", lifted, draw.weight(np.full((1, CHANNELS, 1, 1), 1000.0)))
    return draw.done(draw.head(draw.relu(lowered)))


def large_weight() -> onnx.ModelProto:
    """The values are small, and one weight is not: FP16 would clip it."""
    draw = Drawing()
    x = draw.relu(draw.conv(draw.conv("input", 3, scale=DOWN), scale=UP))
    return draw.done(draw.head(draw.relu(draw.conv(x))))


def shared_weight() -> onnx.ModelProto:
    """Two layers of the same filters, and what the second gives is too large."""
    draw = Drawing()
    filters = draw.weight(draw.filters(scale=600.0))
    x = draw.relu(draw.put("Conv", draw.relu(draw.conv("input", 3)), filters))
    return draw.done(draw.head(draw.conv(draw.put("Conv", x, filters), scale=1e-5)))


PLANTS: tuple[Callable[[], onnx.ModelProto], ...] = (
    *(between_layers, gate, pooled_sum, residual, classifier, clipped, coarse, large_weight, shared_weight),
)


def images(cases: int = 4) -> dict[str, Array]:
    return {"input": np.random.default_rng(1).normal(size=(cases, 3, 8, 8)).astype(np.float32)}
