"""Tests of the two issues of attention with rotary position embeddings."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from deploytool.known_issues import fuse_half_attention, rotate_after_prefix
from tests.known_issues.exported import IMAGE, exported
from tests.user_models.known_issues import Rotary

HALF = (IMAGE.half(),)
OUTPUTS = ["/layers.0/out/Add_output_0", "/layers.1/out/Add_output_0"]


class Unweighted(nn.Module):
    """Scores of rotated queries and keys without a product with values."""

    def __init__(self) -> None:
        super().__init__()
        self.angles = nn.Buffer(torch.linspace(0, 1, 32))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        first, second = image.chunk(2, -1)
        rotated = image * self.angles.cos() + torch.cat((-second, first), -1) * self.angles.sin()
        return (rotated @ rotated.transpose(2, 3)).softmax(-1)


@pytest.mark.parametrize("by_pairs", [False, True])
@pytest.mark.parametrize("prefix", [0, 3])
def test_rotated_attention_in_fp16_matches_at_its_outputs(prefix: int, by_pairs: bool, tmp_path: Path) -> None:
    graph = exported(Rotary(prefix=prefix, by_pairs=by_pairs).half(), tmp_path, inputs=HALF)
    places = fuse_half_attention.find(graph)
    assert [place.tensor for place in places] == OUTPUTS
    assert places[0].nodes == ("/layers.0/MatMul", "/layers.0/Softmax", "/layers.0/MatMul_1")
    assert [place.tensor for place in rotate_after_prefix.find(graph)] == (OUTPUTS if prefix else [])


@pytest.mark.parametrize("by_pairs", [False, True])
def test_only_the_prefix_matters_in_fp32(by_pairs: bool, tmp_path: Path) -> None:
    graph = exported(Rotary(prefix=1, by_pairs=by_pairs), tmp_path)
    assert [place.tensor for place in rotate_after_prefix.find(graph)] == OUTPUTS
    assert fuse_half_attention.find(graph) == ()


SIMILAR = {
    "no rotation": Rotary(rotate="none", prefix=1),
    "queries alone": Rotary(rotate="query", prefix=1),
    "keys alone": Rotary(rotate="key", prefix=1),
    "no values": Unweighted(),
}


@pytest.mark.parametrize("model", SIMILAR.values(), ids=list(SIMILAR))
def test_a_similar_graph_does_not_match(model: nn.Module, tmp_path: Path) -> None:
    graph = exported(model.half(), tmp_path, inputs=HALF)
    assert fuse_half_attention.find(graph) == ()
    assert rotate_after_prefix.find(graph) == ()
