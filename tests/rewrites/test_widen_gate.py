from __future__ import annotations

import onnx
import pytest
from onnx import helper

from tests.rewrites.drawing import Drawing, answers, kinds, proved, refused

NAME = "widen_gate"


def gated(channels: int, first: bool = False) -> onnx.ModelProto:
    """Squeeze and excite, the gate first or last."""
    net = Drawing(4)
    wide = net.conv("picture", channels)
    gate = net.op("Sigmoid", net.conv(net.op("GlobalAveragePool", wide), channels))
    return net.model(net.op("Relu", net.op("Mul", gate, wide) if first else net.op("Mul", wide, gate)))


@pytest.mark.parametrize("first", [True, False])
def test_a_gate_is_as_large_as_the_picture(first: bool) -> None:
    after = proved(gated(32, first), NAME, 1)
    assert kinds(after)[-3:] == ["Resize", "Mul", "Relu"]
    (wide,) = (node for node in after.graph.node if node.op_type == "Resize")
    assert answers(after, [wide.output[0]])[0].shape == (2, 32, 8, 8)


def test_why_not() -> None:
    refused(gated(24), NAME, "do not fill blocks of 16")
    net = Drawing(16)
    refused(net.model(net.op("Mul", "picture", net.op("Sigmoid", "picture"))), NAME, "no Mul has a gate")
    net = Drawing(16)
    gate = net.op("GlobalAveragePool", "picture")
    refused(net.model(net.op("Mul", gate, net.op("Sigmoid", gate))), NAME, "no Mul has a gate")
    net = Drawing(16)
    small = net.op("ReduceMean", net.conv(net.op("GlobalAveragePool", "picture"), 32), axes=[1], keepdims=1)
    refused(net.model(net.op("Mul", net.conv("picture", 16), small)), NAME, "do not fill blocks of 16")
    old = gated(32)
    old.opset_import[0].CopyFrom(helper.make_opsetid("", 12))
    refused(old, NAME, "older than 13")
