from __future__ import annotations

import numpy as np
import pytest

from deploytool.rewrites import pool_globally
from tests.rewrites.builder import SIZE, GraphBuilder, assert_exact, assert_skipped, op_types

NAME = "pool_globally"


@pytest.mark.parametrize("axes", [[2, 3], [3, 2], [-1, -2]])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_a_mean_over_height_and_width(axes: list[int], keepdims: int) -> None:
    net = GraphBuilder(6)
    mean = net.op("ReduceMean", net.conv("image", 8), net.weight(np.array(axes)), keepdims=keepdims)
    after = assert_exact(net.model(mean), NAME, 1)
    assert op_types(after) == ["Conv", "GlobalAveragePool", *([] if keepdims else ["Flatten"])]


def test_reasons_to_skip(monkeypatch: pytest.MonkeyPatch) -> None:
    net = GraphBuilder(6)
    assert_skipped(net.model(net.conv("image", 8)), NAME, "no ReduceMean is left")
    net = GraphBuilder(6)
    mean = net.op("ReduceMean", "image", net.weight(np.array([1])), keepdims=1)
    assert_skipped(net.model(mean), NAME, "it is not over height and width alone")
    net = GraphBuilder(6)
    assert_skipped(net.model(net.op("ReduceMean", "image", keepdims=1)), NAME, "it is not over height and width alone")
    net = GraphBuilder(6)
    flat = net.op("Flatten", "image", axis=2)
    assert_skipped(net.model(net.op("ReduceMean", flat, net.weight(np.array([1])))), NAME, "four dimensions")
    monkeypatch.setattr(pool_globally, "_MAX_PIXELS", SIZE * SIZE - 1)
    net = GraphBuilder(6)
    mean = net.op("ReduceMean", "image", net.weight(np.array([2, 3])), keepdims=1)
    assert_skipped(net.model(mean), NAME, "it sums more than")
