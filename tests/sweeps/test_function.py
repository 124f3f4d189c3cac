from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import deploytool
from deploytool.errors import BadInput
from deploytool.sweeps import function
from deploytool.sweeps.run import Request

MODEL = "mobilenet_v1_cifar"


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[Request]:
    """The sweeps that were asked for; none is made."""
    made: list[Request] = []
    monkeypatch.setattr(function, "run", lambda request, follow: made.append(request))
    return made


def test_one_value_alone_stands_for_a_list_of_it(requests: list[Request]) -> None:
    deploytool.sweep(MODEL, targets="orin", batches=8, weights=Path("w.pth"), exclude="model=x")
    deploytool.sweep(name for name in (MODEL,))  # type: ignore[arg-type]
    table = requests[0].table
    assert (table.models, table.targets, table.batches) == ([MODEL], ["orin"], ["8"])
    assert (table.weights, table.exclude) == (["w.pth"], ["model=x"])
    assert requests[1].table.models == [MODEL]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ({"models": 5}, "models cannot have 5"),
        ({"models": [None]}, "models cannot have None"),
        ({"batches": [True]}, "batches cannot have True"),
        ({"batches": [(1, 2, 4)]}, "batches cannot have"),
        ({"exclude": [3]}, "exclude cannot have 3"),
        ({"weights": [b"w.pth"]}, "weights cannot have b"),
        ({"quick": "no"}, "quick cannot be 'no'"),
        ({"workers": 0}, "workers cannot be 0"),
        ({"workers": "2"}, "workers cannot be '2'"),
        ({"export": {1: 1}}, "export has no option '1'"),
    ],
)
def test_a_wrong_type_is_one_line(requests: list[Request], words: dict[str, Any], problem: str) -> None:
    with pytest.raises(BadInput, match=problem):
        deploytool.sweep(**{"models": [MODEL], **words})
    assert not requests
