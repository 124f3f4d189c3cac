"""The selection that makes a model noisy is named, and only where holding it ends the noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from deploytool.loading.graph.interpreter import GraphModule
from deploytool.model_checks import selections
from deploytool.spec import BATCH, Model, Tensor
from tests import given_graphs

MODEL = Model("head", "head.py:make", inputs=(Tensor("x", (BATCH, 40, 8)),), outputs=(Tensor("y", (BATCH, 6, 4)),))
INPUTS = {"x": np.random.default_rng(0).standard_normal((8, 40, 8)).astype(np.float32)}
GRAPH = """<ir_version: 8, opset_import: ["": 18]>
head (float[N,40,8] x) => (float[N,6,4] y) {
  s = MatMul(x, score)
  near = Add(s, one)
  few = Constant<value_ints=[6]>()
  best, rows = TopK<axis=1>(near, few)
  shape = Constant<value_ints=[1,1,4]>()
  wide = Expand(rows, shape)
  h = MatMul(x, table)
  y = GatherElements<axis=1>(h, wide)
}"""


class Head(nn.Module):
    """Scores, the rows with the best ones, and an output of these rows."""

    def __init__(self, spread: float, way: str = "topk") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.spread, self.way = spread, way
        self.score, self.head = nn.Linear(8, 1), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores = self.score(x)[..., 0] * self.spread + 1
        if self.way == "argmax":
            return self.rows(x, scores.argmax(1)[:, None].expand(-1, 6))
        rows = scores.topk(6, 1)[1] if self.way == "topk" else scores.sort(1, descending=True).indices[:, :6]
        return self.rows(x, rows)

    def rows(self, x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.head(x.gather(1, rows[..., None].expand(-1, -1, 8)))
        return answer


class Cancelling(Head):
    """Its selection is steady; its noise is of a difference of nearly equal values."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * 1e-6 + 10 - 10


@pytest.mark.parametrize("way", ["topk", "argmax", "sort"])
def test_a_selection_among_nearly_equal_scores_is_named(way: str) -> None:
    with torch.no_grad():
        (place,) = selections.find(Head(1e-7, way), MODEL, INPUTS)
    assert place.startswith(f"{way} at ")
    assert "test_selections.py:" in place


@pytest.mark.parametrize("module", [Head(1.0), Cancelling(1.0), Cancelling(1e-6)])
def test_noise_that_no_selection_causes_names_none(module: nn.Module) -> None:
    with torch.no_grad():
        assert selections.find(module, MODEL, INPUTS) == ()


def test_the_selecting_node_of_a_given_graph_is_named() -> None:
    weights = given_graphs.weights(score=(8, 1), table=(8, 4))
    arrays = {**weights, "score": weights["score"] * np.float32(1e-6), "one": np.ones(1, np.float32)}
    graph = GraphModule(given_graphs.model(GRAPH, arrays))
    with torch.no_grad():
        assert selections.find(graph, MODEL, INPUTS) == ("the node best (TopK)",)
