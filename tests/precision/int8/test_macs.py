"""Counted multiply-accumulates, and what runtimes say about the nodes that they run in INT8."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from deploytool.precision.int8 import executed, macs
from deploytool.precision.int8.macs import Int8Share
from tests.precision.int8 import graphs

HEAD = '<ir_version: 8, opset_import: ["" : 18]> g'


def test_macs_by_hand() -> None:
    found = macs.count(graphs.body("shuffle"))
    assert found == {
        "/a/Conv": 12 * 12 * 8 * 8 * 9,
        "/c/Conv": 12 * 12 * 8 * 4,
        "/d/Conv": 12 * 12 * 8 * 9,
        "/e/Conv": 12 * 12 * 8 * 4,
        "/y/Gemm": 80,
    }


@pytest.mark.parametrize(
    ("text", "sizes", "expected"),
    [
        ("(float[2,6] x) => (float[2,5] y) { y = MatMul(x, w) }", {"w": (6, 5)}, 60),
        ("(float[6,2] x) => (float[2,5] y) { y = Gemm<transA=1>(x, w) }", {"w": (6, 5)}, 60),
        (
            "(float[1,3,4,4] x) => (float[1,7,9,9] y) { y = ConvTranspose<strides=[2,2]>(x, w) }",
            {"w": (3, 7, 3, 3)},
            3024,
        ),
        (
            '(float[7,1,6] x) => (float[7,2,1,5] y) { y = LSTM<hidden_size=5, direction="bidirectional">(x, w, r) }',
            {"w": (2, 20, 6), "r": (2, 20, 5)},
            7 * 2 * 20 * (6 + 5),
        ),
        (
            "(float[7,1,6] x) => (float[7,1,1,5] y) { y = GRU<hidden_size=5>(x, w, r) }",
            {"w": (1, 15, 6), "r": (1, 15, 5)},
            7 * 15 * (6 + 5),
        ),
        ("(float[n,k] x) => (float[n,n] y) { t = Transpose(x) y = MatMul(x, t) }", {}, 1),
    ],
)
def test_macs_of_products(text: str, sizes: dict[str, tuple[int, ...]], expected: int) -> None:
    graph = graphs.weighted(f"{HEAD} {text}", sizes)
    assert list(macs.count(graph).values()) == [expected]


def test_shares() -> None:
    share = macs.share({"a": 60, "b": 30, "c": 10}, int8={"a", "other"}, allowed={"a", "b"})
    assert share == Int8Share(int8=60, allowed=90, total=100)
    assert (share.of_allowed, share.of_all) == (60 / 90, 0.6)
    assert (Int8Share(0, 0, 0).of_allowed, Int8Share(0, 0, 0).of_all) == (1, 0)


def layer(name: str, kind: str, types: tuple[str, ...], nodes: tuple[str, ...]) -> str:
    """A line of the build log."""
    inputs = ", ".join(f"{{ Name: t{index}, Datatype: {each}, Format: x }}" for index, each in enumerate(types))
    constants, covered = "{ Name: w, Datatype: Int8 }", "".join(f"[ONNX Layer: {node}]" for node in nodes)
    return f"Name: {name}, LayerType: {kind}, Inputs: [ {inputs}], Constants: [ {constants}], Metadata: {covered}"


LOG = "\n".join(
    [
        layer("/c/Conv_myl0_2", "correlation", ("Int8",), ("/c/Conv", "/r/Relu")),
        layer("/d/Conv_myl0_3", "correlation", ("Half", "Int8"), ("/d/Conv",)),
        layer("gemm_myl0_4", "gemm", ("Int8",), ("/y/Gemm",)),
        layer("kgen_myl0_5", "kgen", ("Int8",), ("/z/Add",)),
    ]
)


def test_nodes_in_int8_are_read_from_the_build_log() -> None:
    assert executed.in_tensorrt(LOG) == {"/c/Conv", "/r/Relu", "/y/Gemm"}


@dataclass
class Operation:
    """An operation of OpenVINO's runtime model."""

    facts: dict[str, str]

    def get_rt_info(self) -> dict[str, str]:
        return self.facts


@dataclass
class RuntimeModel:
    """OpenVINO's runtime model."""

    operations: list[Operation]

    def get_ordered_ops(self) -> list[Operation]:
        return self.operations


def test_nodes_in_int8_are_read_from_the_runtime_model() -> None:
    rows = [("Convolution", "u8", "/a/Conv,/r/Relu"), ("Convolution", "f32", "/b/Conv"), ("Pooling", "u8", "/p/Pool")]
    facts = [
        {"layerType": kind, "runtimePrecision": precision, "originalLayersNames": names}
        for kind, precision, names in rows
    ]
    assert executed.in_openvino(RuntimeModel(list(map(Operation, facts)))) == {"/a/Conv", "/r/Relu"}
