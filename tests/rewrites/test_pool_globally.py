from __future__ import annotations

import numpy as np
import pytest

from deploytool.rewrites import pool_globally
from tests.rewrites.drawing import SIZE, Drawing, kinds, proved, refused

NAME = "pool_globally"


@pytest.mark.parametrize("axes", [[2, 3], [3, 2], [-1, -2]])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_a_mean_over_height_and_width(axes: list[int], keepdims: int) -> None:
    net = Drawing(6)
    mean = net.op("ReduceMean", net.conv("picture", 8), net.weight(np.array(axes)), keepdims=keepdims)
    after = proved(net.model(mean), NAME, 1)
    assert kinds(after) == ["Conv", "GlobalAveragePool", *([] if keepdims else ["Flatten"])]


def test_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Drawing(6)
    refused(net.model(net.conv("picture", 8)), NAME, "no ReduceMean is left")
    net = Drawing(6)
    mean = net.op("ReduceMean", "picture", net.weight(np.array([1])), keepdims=1)
    refused(net.model(mean), NAME, "it is not over height and width alone")
    net = Drawing(6)
    refused(net.model(net.op("ReduceMean", "picture", keepdims=1)), NAME, "it is not over height and width alone")
    net = Drawing(6)
    flat = net.op("Flatten", "picture", axis=2)
    refused(net.model(net.op("ReduceMean", flat, net.weight(np.array([1])))), NAME, "four dimensions")
    monkeypatch.setattr(pool_globally, "_MOST", SIZE * SIZE - 1)
    net = Drawing(6)
    mean = net.op("ReduceMean", "picture", net.weight(np.array([2, 3])), keepdims=1)
    refused(net.model(mean), NAME, "it adds more than")
