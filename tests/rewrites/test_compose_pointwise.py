from __future__ import annotations

import onnx
import pytest

from deploytool.rewrites import compose_pointwise
from tests.rewrites.builder import GraphBuilder, assert_exact, assert_skipped, op_types
from tests.rewrites.test_part_channels import weight_shapes

NAME = "compose_pointwise"


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("groups", [(1, 1), (2, 1), (1, 2), (2, 2)])
def test_an_add_between_pointwise_convolutions(groups: tuple[int, int], first: bool) -> None:
    net = GraphBuilder(4)
    shortcut = net.conv("image", 8, 3)
    branch = net.conv(net.op("Relu", net.conv(shortcut, 24)), 8, groups=groups[0])
    total = net.op("Add", shortcut, branch) if first else net.op("Add", branch, shortcut)
    after = assert_exact(net.model(net.op("Relu", net.conv(total, 20, groups=groups[1]))), NAME, 1)
    assert op_types(after) == ["Conv", "Conv", "Relu", "Concat", "Conv", "Relu"]
    assert weight_shapes(after)[-1] == (20, 32, 1, 1)


def test_reasons_to_skip(monkeypatch: pytest.MonkeyPatch) -> None:
    def model(
        gate: bool = False, kernel: int = 1, has_other_consumer: bool = False, depthwise: bool = False
    ) -> onnx.ModelProto:
        net = GraphBuilder(4)
        shortcut = net.conv("image", 8, 3)
        branch = net.conv(net.depthwise(shortcut) if depthwise else net.op("Relu", shortcut), 8, kernel)
        total = net.op("Add", net.op("GlobalAveragePool", shortcut) if gate else shortcut, branch)
        outputs = [net.conv(total, 20), *([net.op("Relu", total)] if has_other_consumer else [])]
        return net.model(*outputs)

    no_match = "no Add lies between pointwise convolutions"
    for skipped, reason in (
        (model(gate=True), "different shapes"),
        (model(depthwise=True), "a depthwise convolution reads the other operand"),
        (model(kernel=3), no_match),
        (model(has_other_consumer=True), no_match),
    ):
        assert_skipped(skipped, NAME, reason)
    monkeypatch.setattr(compose_pointwise, "_MAX_WEIGHTS", 8 * 20 + 159)
    assert_skipped(model(), NAME, "more than 319 weights")
