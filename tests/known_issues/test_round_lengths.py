from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from deploytool.known_issues import round_lengths
from tests.known_issues.exported import IMAGE, exported
from tests.user_models.known_issues import Lengths

FRAMES = (torch.zeros(2, 8, 16), torch.full((2,), 16))


class OfMask(nn.Module):
    """Lengths after a stride of 2, of a mask of valid frames."""

    def forward(self, mask: Tensor) -> Tensor:
        return (mask.sum(1) - 1) // 2 + 1


class Pixels(nn.Module):
    """Integer pixels, normalised."""

    def forward(self, image: Tensor) -> Tensor:
        return (image - 128) / 64


class Sizes(nn.Module):
    """Divides by a size of its input."""

    def forward(self, image: Tensor) -> Tensor:
        return image.sum(-1) / ((image.shape[0] - 1) // 2 + 1)


class Tokens(nn.Module):
    """Looks up tokens that are shifted by one."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.table(tokens + 1)  # type: ignore[no-any-return]  # a Module call


@pytest.mark.parametrize("in_floats", [False, True])
def test_lengths_after_strides_match_where_they_are_read(in_floats: bool, tmp_path: Path) -> None:
    graph = exported(Lengths(in_floats), tmp_path, inputs=FRAMES)
    (place,) = round_lengths.find(graph)
    assert place.tensor == graph.output[1].name
    (last,) = (node for node in graph.node if place.tensor in node.output)
    assert last.name == place.nodes[1]
    assert place.nodes[0] == next(node.name for node in graph.node if node.op_type == "Div")


def test_the_length_of_a_mask_matches(tmp_path: Path) -> None:
    (place,) = round_lengths.find(exported(OfMask(), tmp_path, inputs=(torch.ones(2, 8, dtype=torch.long),)))
    assert place.tensor


SIMILAR: dict[str, tuple[nn.Module, tuple[Tensor, ...]]] = {
    "lengths without a stride": (Lengths(strided=False), FRAMES),
    "integer pixels": (Pixels(), (IMAGE.long(),)),
    "a size": (Sizes(), (IMAGE,)),
    "tokens": (Tokens(), (torch.zeros(2, 4, dtype=torch.long),)),
}


@pytest.mark.parametrize(("model", "inputs"), SIMILAR.values(), ids=list(SIMILAR))
def test_a_similar_graph_does_not_match(model: nn.Module, inputs: tuple[Tensor, ...], tmp_path: Path) -> None:
    assert round_lengths.find(exported(model, tmp_path, inputs=inputs)) == ()
