"""Small sound ONNX files of every kind that a user may hand to `export`, which the campaign mutates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

SIDE_FILE = "w.bin"
_FLOAT, _HALF, _INT64, _BOOL = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT64, TensorProto.BOOL
_CHANNELS, _HIDDEN, _VOCABULARY = 4, 8, 11
Array = npt.NDArray[Any]
Shape = Sequence[int | str] | None
node = helper.make_node


def tensor(name: str, kind: int, shape: Shape) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def model(
    nodes: Sequence[NodeProto],
    inputs: Sequence[ValueInfoProto],
    outputs: Sequence[ValueInfoProto],
    weights: Mapping[str, Array | Sequence[int]] = {},
    **more: Any,
) -> ModelProto:
    """A model; weights that are lists become int64."""
    arrays = {
        name: np.array(value, np.int64) if isinstance(value, list) else np.asarray(value)
        for name, value in weights.items()
    }
    initializers = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, initializers)
    settings = {"opset_imports": [helper.make_opsetid("", 18)], "ir_version": 9, **more}
    return helper.make_model(graph, **settings)


def weight(*shape: int, scale: float = 0.5) -> npt.NDArray[np.float32]:
    return (np.random.default_rng(sum(shape)).standard_normal(shape) * scale).astype(np.float32)


def convolutional(side: int | str = 12, *, batch: int | str = "N") -> ModelProto:
    """Convolution, batch normalisation, pooling and a classifier."""
    nodes = [
        node("Conv", ["image", "w", "b"], ["c"], "stem", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["c", "scale", "shift", "mean", "var"], ["n"], "norm"),
        node("Relu", ["n"], ["r"], "relu"),
        node("MaxPool", ["r"], ["p"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        node("GlobalAveragePool", ["p"], ["a"], "average"),
        node("Flatten", ["a"], ["f"], "flatten"),
        node("Gemm", ["f", "head", "bias"], ["logits"], "head", transB=1),
    ]
    weights = {
        **{"w": weight(_CHANNELS, 3, 3, 3), "b": weight(_CHANNELS), "head": weight(5, _CHANNELS), "bias": weight(5)},
        **{"scale": weight(_CHANNELS) + 2, "shift": weight(_CHANNELS)},
        **{"mean": weight(_CHANNELS), "var": np.abs(weight(_CHANNELS)) + 1},
    }
    return model(
        nodes, [tensor("image", _FLOAT, [batch, 3, side, side])], [tensor("logits", _FLOAT, [batch, 5])], weights
    )


def transformer() -> ModelProto:
    """Token ids and a mask through attention, LayerNorm and GELU."""
    nodes = [
        node("Gather", ["table", "ids"], ["e"], "embed"),
        node("LayerNormalization", ["e", "gain", "offset"], ["h"], "norm", axis=-1, epsilon=1e-5),
        *(node("MatMul", ["h", f"w{part}"], [part], f"project_{part}") for part in "qkv"),
        node("Transpose", ["k"], ["kt"], "transpose", perm=[0, 2, 1]),
        node("MatMul", ["q", "kt"], ["s"], "scores"),
        node("Unsqueeze", ["mask", "one"], ["m3"], "unsqueeze"),
        node("Equal", ["m3", "zero"], ["hidden"], "compare"),
        node("Where", ["hidden", "lowest", "s"], ["masked"], "mask"),
        node("Softmax", ["masked"], ["a"], "softmax", axis=-1),
        node("MatMul", ["a", "v"], ["o"], "attend"),
        node("Add", ["o", "e"], ["x"], "residual"),
        node("Mul", ["x", "half"], ["g0"]),
        node("Erf", ["x"], ["g1"]),
        node("Mul", ["g0", "g1"], ["g2"]),
        node("MatMul", ["g2", "head"], ["logits"], "head"),
    ]
    weights: dict[str, Any] = {
        **{"table": weight(_VOCABULARY, _HIDDEN), "gain": weight(_HIDDEN) + 1, "offset": weight(_HIDDEN)},
        **{f"w{part}": weight(_HIDDEN, _HIDDEN + index)[:, :_HIDDEN] for index, part in enumerate("qkv")},
        **{"one": [1], "zero": [0], "lowest": np.float32(-3e38), "half": np.float32(0.5)},
        "head": weight(_HIDDEN, 3),
    }
    inputs = [tensor(name, _INT64, ["batch", "tokens"]) for name in ("ids", "mask")]
    return model(nodes, inputs, [tensor("logits", _FLOAT, ["batch", "tokens", 3])], weights)


def recurrent() -> ModelProto:
    """An LSTM with the batch second."""
    nodes = [
        node("LSTM", ["frames", "w", "r", "b"], ["y", "last"], "lstm", hidden_size=_HIDDEN),
        node("Squeeze", ["y", "axis"], ["s"], "squeeze"),
        node("MatMul", ["s", "head"], ["scores"], "head"),
    ]
    weights: dict[str, Any] = {
        **{"w": weight(1, 4 * _HIDDEN, 3), "r": weight(1, 4 * _HIDDEN, _HIDDEN), "b": weight(1, 8 * _HIDDEN)},
        **{"axis": [1], "head": weight(_HIDDEN, 2)},
    }
    outputs = [tensor("scores", _FLOAT, [6, "batch", 2]), tensor("last", _FLOAT, [1, "batch", _HIDDEN])]
    return model(nodes, [tensor("frames", _FLOAT, [6, "batch", 3])], outputs, weights)


def quantized() -> ModelProto:
    """A convolution with quantised inputs and weights."""
    nodes = [
        node("QuantizeLinear", ["image", "s", "z"], ["q"], "quantize"),
        node("DequantizeLinear", ["q", "s", "z"], ["d"], "dequantize"),
        node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], "weights", axis=0),
        node("Conv", ["d", "wd"], ["y"], "conv", kernel_shape=[3, 3]),
    ]
    weights: dict[str, Any] = {
        **{"s": np.float32(0.05), "z": np.uint8(128)},
        **{"w": np.arange(-54, 54, dtype=np.int8).reshape(_CHANNELS, 3, 3, 3)},
        **{"ws": np.full(_CHANNELS, 0.01, np.float32), "wz": np.zeros(_CHANNELS, np.int8)},
    }
    return model(nodes, [tensor("image", _FLOAT, ["N", 3, 8, 8])], [tensor("y", _FLOAT, ["N", 4, 6, 6])], weights)


def _body(
    nodes: Sequence[NodeProto], inputs: Sequence[ValueInfoProto], outputs: Sequence[ValueInfoProto]
) -> GraphProto:
    return helper.make_graph(nodes, "body", inputs, outputs)


def control_flow() -> ModelProto:
    """A loop of three steps, and a branch on the sum of the input."""
    state = tensor("state", _FLOAT, None)
    loop = _body(
        [
            node("Identity", ["go"], ["on"]),
            node("MatMul", ["state", "w"], ["m"], "step"),
            node("Tanh", ["m"], ["next"]),
        ],
        [tensor("turn", _INT64, []), tensor("go", _BOOL, []), state],
        [tensor("on", _BOOL, []), tensor("next", _FLOAT, None)],
    )
    then = _body([node("Relu", ["looped"], ["a"])], [], [tensor("a", _FLOAT, None)])
    other = _body([node("Neg", ["looped"], ["b"])], [], [tensor("b", _FLOAT, None)])
    nodes = [
        node("Loop", ["turns", "yes", "x"], ["looped"], "loop", body=loop),
        node("ReduceMax", ["x"], ["largest"], "largest", keepdims=0),
        node("Less", ["largest", "never"], ["small"], "less"),
        node("If", ["small"], ["branch"], "if", then_branch=then, else_branch=other),
        node("Add", ["branch", "x"], ["y"], "add"),
    ]
    weights: dict[str, Any] = {
        **{"w": weight(_HIDDEN, _HIDDEN), "turns": np.array(3, np.int64), "yes": np.array(True)},
        "never": np.float32(1e9),
    }
    return model(nodes, [tensor("x", _FLOAT, ["batch", 8])], [tensor("y", _FLOAT, ["batch", 8])], weights)


def detector() -> ModelProto:
    """Boxes and scores through TopK and NonMaxSuppression."""
    nodes = [
        node("Sigmoid", ["raw"], ["scores"], "scores"),
        node("Transpose", ["scores"], ["by_class"], "transpose", perm=[0, 2, 1]),
        node("NonMaxSuppression", ["boxes", "by_class", "most", "overlap"], ["kept"], "nms"),
        node("ReduceMax", ["scores", "last"], ["best"], "best", keepdims=0),
        node("TopK", ["best", "k"], ["most_likely", "places"], "topk"),
        node("Cast", ["kept"], ["kept_real"], "cast", to=_FLOAT),
        node("ReduceMax", ["kept_real"], ["row"], "row", keepdims=0),
        node("Clip", ["row", "", "one"], ["limited"], "clip"),
        node("Mul", ["limited", "nothing"], ["no_change"], "mul"),
        node("Add", ["most_likely", "no_change"], ["top"], "add"),
    ]
    weights: dict[str, Any] = {
        **{"most": [3], "overlap": np.array([0.5], np.float32), "k": [4], "last": [2]},
        **{"one": np.float32(1), "nothing": np.float32(0)},
    }
    inputs = [tensor("boxes", _FLOAT, ["batch", 9, 4]), tensor("raw", _FLOAT, ["batch", 9, 2])]
    outputs = [
        tensor("top", _FLOAT, ["batch", 4]),
        tensor("places", _INT64, ["batch", 4]),
    ]
    return model(nodes, inputs, outputs, weights)


def dynamic() -> ModelProto:
    """Height and width are free, and shapes are computed."""
    nodes = [
        node("Conv", ["image", "w"], ["c"], "conv", kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2]),
        node("Shape", ["image"], ["size"], "shape", start=2),
        node("Shape", ["c"], ["front"], "front", end=2),
        node("Concat", ["front", "size"], ["target"], "concat", axis=0),
        node("Resize", ["c", "", "", "target"], ["r"], "resize", mode="linear"),
        node("Concat", ["r", "image"], ["both"], "join", axis=1),
        node("Slice", ["both", "starts", "ends", "axes"], ["y"], "slice"),
    ]
    weights: dict[str, Any] = {"w": weight(_CHANNELS, 3, 3, 3), "starts": [1], "ends": [6], "axes": [1]}
    inputs = [tensor("image", _FLOAT, ["N", 3, "H", "W"])]
    return model(nodes, inputs, [tensor("y", _FLOAT, ["N", 5, "H", "W"])], weights)


def half() -> ModelProto:
    """Weights, inputs and outputs are FP16."""
    nodes = [
        node("MatMul", ["x", "w"], ["m"], "matmul"),
        node("Add", ["m", "b"], ["a"], "bias"),
        node("Tanh", ["a"], ["y"], "tanh"),
    ]
    weights = {"w": weight(_HIDDEN, 4).astype(np.float16), "b": weight(4).astype(np.float16)}
    return model(nodes, [tensor("x", _HALF, ["batch", 8])], [tensor("y", _HALF, ["batch", 4])], weights)


def mixed_types() -> ModelProto:
    """Boolean, integer and floating-point inputs; one output is boolean."""
    nodes = [
        node("Cast", ["count"], ["f"], "cast", to=_FLOAT),
        node("Where", ["flag", "x", "f"], ["w"], "where"),
        node("Mul", ["w", "scale"], ["y"], "mul"),
        node("Greater", ["y", "x"], ["more"], "greater"),
    ]
    inputs = [
        tensor("x", _FLOAT, ["b", 6]),
        tensor("count", TensorProto.INT32, ["b", 6]),
        tensor("flag", _BOOL, ["b", 6]),
    ]
    outputs = [tensor("y", _FLOAT, ["b", 6]), tensor("more", _BOOL, ["b", 6])]
    return model(nodes, inputs, outputs, {"scale": weight(6)})


def with_function() -> ModelProto:
    """A function of the model."""
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    body = [node("MatMul", ["a", "b"], ["m"]), node("Relu", ["m"], ["c"])]
    layer = helper.make_function("own", "Layer", ["a", "b"], ["c"], body, opsets[:1])
    nodes = [
        node("Layer", ["x", "w"], ["h"], "one", domain="own"),
        node("Layer", ["h", "w"], ["y"], "two", domain="own"),
    ]
    values = [tensor(name, _FLOAT, ["batch", _HIDDEN]) for name in ("x", "y")]
    weights = {"w": weight(_HIDDEN, _HIDDEN)}
    return model(nodes, values[:1], values[1:], weights, opset_imports=opsets, functions=[layer])


def old() -> ModelProto:
    """Opset 11 and IR 3: weights are inputs too, and axes are attributes."""
    nodes = [
        node("ReduceMean", ["x"], ["mean"], "mean", axes=[1], keepdims=1),
        node("Sub", ["x", "mean"], ["c"], "centre"),
        node("Clip", ["c", "least", "most"], ["k"], "clip"),
        node("Dropout", ["k"], ["d"], "dropout", ratio=0.5),
        node("Gemm", ["d", "w", "b"], ["y"], "head"),
    ]
    weights: dict[str, Any] = {
        **{"w": weight(_HIDDEN, 4), "b": weight(4)},
        **{"least": np.float32(-1), "most": np.float32(1)},
    }
    inputs = [
        tensor("x", _FLOAT, ["batch", _HIDDEN]),
        *(tensor(name, _FLOAT, np.shape(array)) for name, array in weights.items()),
    ]
    outputs = [tensor("y", _FLOAT, ["batch", 4])]
    return model(nodes, inputs, outputs, weights, opset_imports=[helper.make_opsetid("", 11)], ir_version=3)


def no_batch() -> ModelProto:
    """One vector, without a batch."""
    nodes = [node("MatMul", ["x", "w"], ["m"], "matmul"), node("Softmax", ["m"], ["y"], "softmax", axis=0)]
    return model(nodes, [tensor("x", _FLOAT, [8])], [tensor("y", _FLOAT, [4])], {"w": weight(_HIDDEN, 4)})


def fixed_batch() -> ModelProto:
    """A batch of two, and no other."""
    return convolutional(batch=2)


def external() -> ModelProto:
    """Its weights are beside it, in `SIDE_FILE`."""
    return convolutional()


BASES: Mapping[str, Callable[[], ModelProto]] = {
    make.__name__: make
    for make in (
        *(convolutional, transformer, recurrent, quantized, control_flow, detector, dynamic, half, mixed_types),
        *(with_function, old, no_batch, fixed_batch, external),
    )
}
SIZES = {"dynamic": ("--size", "H=8:10:12", "--size", "W=8:10:12"), "transformer": ("--size", "tokens=4:5:7")}


def write(name: str, path: Path) -> None:
    """Writes a base model, and the side file of `external` beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made = BASES[name]()
    if name == external.__name__:
        onnx.save_model(made, path, save_as_external_data=True, location=SIDE_FILE, size_threshold=0)
    else:
        path.write_bytes(made.SerializeToString())
