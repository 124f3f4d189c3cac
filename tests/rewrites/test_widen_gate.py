from __future__ import annotations

import onnx
import pytest
from onnx import helper

from tests.rewrites.builder import GraphBuilder, assert_exact, assert_skipped, evaluate, op_types

NAME = "widen_gate"


def gated_model(channels: int, first: bool = False) -> onnx.ModelProto:
    """Squeeze-and-excitation, with the gate as first or last operand of the Mul."""
    net = GraphBuilder(4)
    wide = net.conv("image", channels)
    gate = net.op("Sigmoid", net.conv(net.op("GlobalAveragePool", wide), channels))
    return net.model(net.op("Relu", net.op("Mul", gate, wide) if first else net.op("Mul", wide, gate)))


@pytest.mark.parametrize("first", [True, False])
def test_the_gate_is_expanded_to_the_feature_map(first: bool) -> None:
    after = assert_exact(gated_model(32, first), NAME, 1)
    assert op_types(after)[-3:] == ["Resize", "Mul", "Relu"]
    (resize,) = (node for node in after.graph.node if node.op_type == "Resize")
    assert evaluate(after, [resize.output[0]])[0].shape == (2, 32, 8, 8)


def test_reasons_to_skip() -> None:
    assert_skipped(gated_model(24), NAME, "do not fill blocks of 16")
    net = GraphBuilder(16)
    assert_skipped(net.model(net.op("Mul", "image", net.op("Sigmoid", "image"))), NAME, "no Mul has a gate")
    net = GraphBuilder(16)
    gate = net.op("GlobalAveragePool", "image")
    assert_skipped(net.model(net.op("Mul", gate, net.op("Sigmoid", gate))), NAME, "no Mul has a gate")
    net = GraphBuilder(16)
    small = net.op("ReduceMean", net.conv(net.op("GlobalAveragePool", "image"), 32), axes=[1], keepdims=1)
    assert_skipped(net.model(net.op("Mul", net.conv("image", 16), small)), NAME, "do not fill blocks of 16")
    old = gated_model(32)
    old.opset_import[0].CopyFrom(helper.make_opsetid("", 12))
    assert_skipped(old, NAME, "older than 13")
