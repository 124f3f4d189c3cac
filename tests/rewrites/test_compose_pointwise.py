from __future__ import annotations

import pytest

from deploytool.rewrites import compose_pointwise
from tests.rewrites.drawing import Drawing, kinds, proved, refused
from tests.rewrites.test_part_channels import weights

NAME = "compose_pointwise"


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("groups", [(1, 1), (2, 1), (1, 2), (2, 2)])
def test_the_end_of_a_stage(groups: tuple[int, int], first: bool) -> None:
    net = Drawing(4)
    skip = net.conv("picture", 8, 3)
    made = net.conv(net.op("Relu", net.conv(skip, 24)), 8, groups=groups[0])
    total = net.op("Add", skip, made) if first else net.op("Add", made, skip)
    after = proved(net.model(net.op("Relu", net.conv(total, 20, groups=groups[1]))), NAME, 1)
    assert kinds(after) == ["Conv", "Conv", "Relu", "Concat", "Conv", "Relu"]
    assert weights(after)[-1] == (20, 32, 1, 1)


def test_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def stage(gate: bool = False, kernel: int = 1, others: bool = False, depthwise: bool = False) -> object:
        net = Drawing(4)
        skip = net.conv("picture", 8, 3)
        made = net.conv(net.depthwise(skip) if depthwise else net.op("Relu", skip), 8, kernel)
        total = net.op("Add", net.op("GlobalAveragePool", skip) if gate else skip, made)
        ends = [net.conv(total, 20), *([net.op("Relu", total)] if others else [])]
        return net.model(*ends)

    apart = "no Add lies between pointwise convolutions"
    for model, why in (
        (stage(gate=True), "another shape"),
        (stage(depthwise=True), "read by a depthwise convolution"),
        (stage(kernel=3), apart),
        (stage(others=True), apart),
    ):
        refused(model, NAME, why)  # type: ignore[arg-type]  # a model, as `refused` takes it
    monkeypatch.setattr(compose_pointwise, "_SMALL", 8 * 20 + 159)
    refused(stage(), NAME, "more than 319 weights")  # type: ignore[arg-type]  # as above
