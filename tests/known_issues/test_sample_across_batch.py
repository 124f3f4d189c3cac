from __future__ import annotations

from pathlib import Path

import pytest
from torch import Tensor, nn
from torch.nn import functional

from deploytool.known_issues import sample_across_batch
from tests.known_issues.exported import exported
from tests.user_models.known_issues import Deformable


class Warp(nn.Module):
    """Moves the pixels of an image."""

    def forward(self, image: Tensor) -> Tensor:
        places = image[:, :2].permute(0, 2, 3, 1).tanh()
        return functional.grid_sample(image, places, align_corners=False).sum(-1)


class Attended(nn.Module):
    """Samples an image, and averages the samples with a mask that no softmax computed."""

    def forward(self, image: Tensor) -> Tensor:
        places = image[:, :2].permute(0, 2, 3, 1).tanh()
        samples = functional.grid_sample(image, places, align_corners=False)
        return (samples * image.softmax(-1).mean(-1, keepdim=True)).sum(-1)


class Pooled(nn.Module):
    """Weighs pixels with a softmax, without sampling."""

    def forward(self, image: Tensor) -> Tensor:
        return (image * image.mean(1, keepdim=True).softmax(-1)).sum(-1)


def test_deformable_attention_matches_at_its_sum(tmp_path: Path) -> None:
    (place,) = sample_across_batch.find(exported(Deformable(), tmp_path))
    assert place.tensor == "/attention/out/Add_output_0"
    assert place.nodes == ("/attention/GridSample", "/attention/ReduceSum")


@pytest.mark.parametrize("model", [Deformable(weighted=False), Warp(), Attended(), Pooled()], ids=lambda m: repr(m)[:9])
def test_a_similar_graph_does_not_match(model: nn.Module, tmp_path: Path) -> None:
    assert sample_across_batch.find(exported(model, tmp_path)) == ()
