from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from deploytool.known_issues import reduce_keys
from tests.known_issues.exported import exported
from tests.user_models.known_issues import Reduced, Rotary


def test_attention_to_reduced_keys_matches_at_its_output(tmp_path: Path) -> None:
    (place,) = reduce_keys.find(exported(Reduced(), tmp_path))
    assert place.tensor == "/attention/out/Add_output_0"
    assert place.nodes == ("/attention/MatMul", "/attention/Softmax", "/attention/MatMul_1")


SIMILAR = {
    "overlapping kernels": Reduced(kernel=3),
    "keys that are not reduced": Reduced(stride=1),
    "a query that is reduced too": Reduced(reduced_query=True),
    "the patches of an image": Rotary(rotate="none", depth=1),
}


@pytest.mark.parametrize("model", SIMILAR.values(), ids=list(SIMILAR))
def test_a_similar_graph_does_not_match(model: nn.Module, tmp_path: Path) -> None:
    assert reduce_keys.find(exported(model, tmp_path)) == ()
