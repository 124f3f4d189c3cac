from __future__ import annotations

import math
from pathlib import Path

import pytest

from deploytool.precision.int8.keep_search import MOST, fewest_layers, sensitivities
from deploytool.precision.search import Evaluation, Kept
from tests.int8 import kept

SEEDS = 60


def test_the_set_is_at_most_one_layer_too_large_after_a_tenth_of_all_sets() -> None:
    off = []
    for seed in range(1000, 1000 + SEEDS):
        layers, error, few = kept.noise(seed)
        tolerated = kept.limit(seed, layers, error)
        found, asked = kept.searched(layers, error, few, tolerated)
        assert found.kept is not None
        assert error(found.kept) <= tolerated
        assert found.evaluations <= MOST + 4
        assert asked < 0.1 * 2 ** len(layers)
        off.append(len(found.kept) - kept.fewest(layers, error, tolerated, len(found.kept)))
    assert sum(each <= 1 for each in off) >= 0.95 * SEEDS


def test_layers_of_a_graph_in_int8_are_kept(tmp_path: Path) -> None:
    layers, error, few = kept.graph(103, tmp_path)
    assert error(frozenset(layers)) < 1e-6 < error(frozenset())
    tolerated = kept.limit(103, layers, error)
    found, asked = kept.searched(layers, error, few, tolerated)
    assert found.kept is not None
    assert error(found.kept) <= tolerated < error(frozenset())
    assert asked < 0.1 * 2 ** len(layers)


def test_the_most_sensitive_layers_are_tried_first() -> None:
    layers, tried = [f"layer{place}" for place in range(100)], list[Kept]()

    def judge(chosen: Kept) -> Evaluation:
        tried.append(chosen)
        return Evaluation(chosen >= {"layer7", "layer50"}, 0.0)

    sensitivity = dict.fromkeys(layers, 0.1) | {"layer7": math.nan, "layer50": 3.0, "layer3": 2.0}
    found = fewest_layers(layers, judge, sensitivity)
    assert found.kept == frozenset(("layer7", "layer50"))
    assert len(tried) < 15


def test_of_equally_sensitive_layers_the_cheaper_one_is_kept() -> None:
    found = fewest_layers(
        "abcdef", lambda chosen: Evaluation(bool(chosen), 0.0), dict.fromkeys("abcdef", 1.0), {"b": -1.0}
    )
    assert found.kept == frozenset("b")


@pytest.mark.parametrize(("holds", "expected"), [(False, None), (True, frozenset())])
def test_it_may_be_that_none_is_needed_or_all_are_not_enough(holds: bool, expected: Kept | None) -> None:
    found = fewest_layers("abcdefgh", lambda chosen: Evaluation(holds, 1.0), dict.fromkeys("abcdefgh", 1.0))
    assert found.kept == expected
    assert found.evaluations <= 5


def test_a_sensitivity_is_the_error_of_the_layer_alone_in_int8() -> None:
    weights = {"a": 1.0, "b": 4.0, "c": 2.0}
    found = sensitivities("abc", lambda chosen: sum(weights[layer] for layer in "abc" if layer not in chosen))
    assert found == weights


def test_layers_that_their_sensitivity_overrates_are_dropped() -> None:
    order = {layer: 8.0 - place for place, layer in enumerate("abcdefgh")}
    found = fewest_layers("abcdefgh", lambda chosen: Evaluation(chosen >= set("ce"), 0.0), order)
    assert found.kept == frozenset("ce")


def test_two_layers_are_exchanged_for_one() -> None:
    order = {layer: 8.0 - place for place, layer in enumerate("abcdefgh")}
    found = fewest_layers("abcdefgh", lambda chosen: Evaluation(chosen >= set("ab") or "d" in chosen, 0.0), order)
    assert found.kept == frozenset("d")
