"""Compares the estimated memory of a graph with what it takes, for several kinds of models, each in its own process."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from deploytool.bundle.manifest import MAX_MEMORY_MIB
from deploytool.rewrites.graph import memory
from tests.conftest import ROOT

CASES = 8
FLOAT, FLOAT16 = TensorProto.FLOAT, TensorProto.FLOAT16


def make_model(
    nodes: list[NodeProto], shape: list[int | str], *weights: TensorProto, kind: int = FLOAT, result: int = FLOAT
) -> ModelProto:
    ends = helper.make_tensor_value_info("x", kind, shape), helper.make_tensor_value_info("y", result, None)
    graph = helper.make_graph(nodes, "g", [ends[0]], [ends[1]], list(weights))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def weight(name: str, *shape: int, kind: type = np.float32) -> TensorProto:
    return numpy_helper.from_array(np.full(shape, 0.01, kind), name)


def node(op: str, inputs: list[str], output: str, **settings: Any) -> NodeProto:
    return helper.make_node(op, inputs, [output], **settings)


def convolutions() -> ModelProto:
    """Large activations, as in the first level of a U-Net."""
    nodes = [
        node("Conv", ["x", "w1"], "a", pads=[1] * 4),
        node("Relu", ["a"], "b"),
        node("Conv", ["b", "w2"], "c", pads=[1] * 4),
        node("Concat", ["a", "c"], "d", axis=1),
        node("Conv", ["d", "w3"], "y"),
    ]
    weights = weight("w1", 32, 3, 3, 3), weight("w2", 32, 32, 3, 3), weight("w3", 4, 64, 1, 1)
    return make_model(nodes, ["batch", 3, 192, 192], *weights)


def large_kernel() -> ModelProto:
    return make_model([node("Conv", ["x", "w"], "y", pads=[7] * 4)], ["batch", 16, 96, 96], weight("w", 16, 16, 15, 15))


def transposed_convolution() -> ModelProto:
    layer = node("ConvTranspose", ["x", "w"], "y", strides=[8, 8], pads=[4] * 4)
    return make_model([layer], ["batch", 64, 32, 32], weight("w", 64, 16, 16, 16))


def attention() -> ModelProto:
    nodes = [
        *(node("MatMul", ["x", name], name.upper()) for name in ("q", "k", "v")),
        node("Transpose", ["K"], "T", perm=[0, 2, 1]),
        node("MatMul", ["Q", "T"], "s"),
        node("Softmax", ["s"], "p", axis=-1),
        node("MatMul", ["p", "V"], "y"),
    ]
    return make_model(nodes, ["batch", 1024, 64], *(weight(name, 64, 64) for name in ("q", "k", "v")))


def lstm() -> ModelProto:
    layer = node("LSTM", ["x", "w", "r"], "y", hidden_size=128, layout=0)
    return make_model([layer], ["batch", 4096, 64], weight("w", 1, 512, 64), weight("r", 1, 512, 128))


def resize() -> ModelProto:
    sizes = numpy_helper.from_array(np.array([1, 1, 16, 16], np.float32), "sizes")
    return make_model([node("Resize", ["x", "", "sizes"], "y", mode="linear")], ["batch", 4, 32, 32], sizes)


def large_weights() -> ModelProto:
    nodes = [node("Gemm", ["x", "w1"], "a"), node("Relu", ["a"], "b"), node("Gemm", ["b", "w2"], "y")]
    return make_model(nodes, ["batch", 3072], weight("w1", 3072, 3072), weight("w2", 3072, 3072))


def large_fp16_weights() -> ModelProto:
    nodes = [node("Gemm", ["x", "w1"], "a"), node("Relu", ["a"], "b"), node("Gemm", ["b", "w2"], "y")]
    weights = weight("w1", 3072, 3072, kind=np.float16), weight("w2", 3072, 3072, kind=np.float16)
    return make_model(nodes, ["batch", 3072], *weights, kind=FLOAT16, result=FLOAT16)


def softmax() -> ModelProto:
    """Softmax over an axis that is not the last, for which ONNX Runtime transposes the tensor."""
    return make_model([node("Softmax", ["x"], "y", axis=1)], ["batch", 64, 128, 128])


MODELS: tuple[Callable[[], ModelProto], ...] = (
    *(convolutions, large_kernel, transposed_convolution, attention, lstm),
    *(resize, large_weights, large_fp16_weights, softmax),
)


def run(folder: Path, model: ModelProto, stated: int) -> subprocess.CompletedProcess[str]:
    raw = model.SerializeToString()
    (folder / "model.onnx").write_bytes(raw)
    shape = [dim.dim_value or CASES for dim in model.graph.input[0].type.tensor_type.shape.dim]
    dtype = "float16" if model.graph.input[0].type.tensor_type.elem_type == FLOAT16 else "float32"
    file = [str(folder / "model.onnx"), str(len(raw)), hashlib.sha256(raw).hexdigest()]
    script = [sys.executable, "-m", "tests.rewrites.graph.run_session"]
    command = [*script, *file, str(stated), "x".join(map(str, shape)), dtype]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.integration
@pytest.mark.parametrize("make", MODELS)
def test_a_graph_takes_at_most_half_of_the_estimate(make: Callable[[], ModelProto], tmp_path: Path) -> None:
    model = make()
    stated = memory.required_mib(model, {"batch": CASES}, CASES)
    assert stated is not None
    process = run(tmp_path, model, stated)
    assert process.returncode == 0, process.stderr
    assert int(process.stdout) <= stated / 2


def test_a_graph_that_takes_more_than_stated_is_stopped(tmp_path: Path) -> None:
    process = run(tmp_path, convolutions(), 40)
    assert process.returncode != 0
    assert "40 MiB" in process.stderr


def test_the_estimate_is_deterministic_and_grows_with_the_batch() -> None:
    first, second = (memory.required_mib(convolutions(), {"batch": 8}, 8) for _ in "ab")
    assert first == second
    assert first is not None
    larger, more, fewer = (memory.required_mib(convolutions(), {"batch": size}, 8) for size in (16, 9, 1))
    assert larger is not None
    assert more is not None
    assert fewer is not None
    assert fewer < first < more < larger


def test_the_estimate_of_a_small_graph_is_small() -> None:
    stated = memory.required_mib(make_model([node("Relu", ["x"], "y")], ["batch", 3, 32, 32]), {"batch": 8}, 8)
    assert stated is not None
    assert stated < 192


def test_shapes_that_depend_on_data_have_no_estimate() -> None:
    assert memory.required_mib(make_model([node("NonZero", ["x"], "y")], ["batch", 4]), {"batch": 8}, 8) is None
    assert memory.required_mib(make_model([node("Relu", ["x"], "y")], ["batch", "wide"]), {"batch": 8}, 8) is None
    invalid = make_model([node("Add", ["x", "w"], "y")], ["batch", 4], weight("w", 3))
    assert memory.required_mib(invalid, {"batch": 8}, 8) is None
    custom = make_model([node("Gelu", ["x"], "y", domain="com.microsoft")], ["batch", 4])
    assert memory.required_mib(custom, {"batch": 8}, 8) is None


def test_the_estimate_may_exceed_the_limit_of_a_manifest() -> None:
    stated = memory.required_mib(make_model([node("Relu", ["x"], "y")], ["batch", 1 << 26]), {"batch": 8}, 8)
    assert stated is not None
    assert stated > MAX_MEMORY_MIB == 8192


def test_shape_annotations_do_not_change_the_estimate() -> None:
    model = convolutions()
    before = memory.required_mib(model, {"batch": 8}, 8)
    model.graph.value_info.append(helper.make_tensor_value_info("a", FLOAT, [1, 1, 1, 1]))
    assert memory.required_mib(model, {"batch": 8}, 8) == before
