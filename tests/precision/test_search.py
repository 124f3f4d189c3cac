"""The search compared with exhaustive search, on hundreds of synthetic error functions."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from itertools import combinations

import pytest

from deploytool.precision.search import Evaluation, Kept, SearchResult, smallest_set

Error = Callable[[Kept], float]
Instance = tuple[list[str], Error, float]  # nodes, the error of a kept set, the error that is tolerated
KINDS = ("additive", "largest", "pairs", "overflow", "mixed", "cover", "choice")
SEEDS = 300  # of each kind


def instance(kind: str, seed: int) -> Instance:
    """Nodes with errors of their own, and errors that remain unless all, or any, of some nodes are kept."""
    draw = random.Random(f"{kind} {seed}")
    nodes = [f"node{place}" for place in range(draw.randint(8, 12))]
    spread, small = draw.choice([0.3, 1.0, 2.0]), 1.0 if kind in ("additive", "largest", "mixed") else 0.01
    single = {node: draw.lognormvariate(0, spread) * small for node in nodes}
    unless_any: list[tuple[set[str], float]] = []
    unless_all: list[set[str]] = []
    if kind in ("pairs", "mixed", "cover"):
        pairs = range(draw.randint(len(nodes) // 2, 2 * len(nodes)) if kind == "cover" else draw.randint(1, len(nodes)))
        unless_any = [(set(draw.sample(nodes, 2)), draw.lognormvariate(1, 1)) for _ in pairs]
    if kind == "choice":
        some = range(draw.randint(2, len(nodes)))
        unless_any = [(set(draw.sample(nodes, draw.randint(2, 4))), draw.lognormvariate(1, 1)) for _ in some]
    if kind in ("overflow", "mixed"):
        places = [draw.randrange(len(nodes) - 1) for _ in range(draw.randint(1, 3))]
        unless_all = [set(nodes[place : place + draw.randint(2, 4)]) for place in places]

    def error(kept: Kept) -> float:
        if any(not together <= kept for together in unless_all):
            return math.inf
        left = [single[node] for node in nodes if node not in kept]
        more = sum(size for choice, size in unless_any if kept.isdisjoint(choice))
        return (max(left, default=0.0) if kind == "largest" else sum(left)) + more

    exactly = kind in ("cover", "choice") and draw.random() < 0.5  # then no choice may be left open
    most = sum(single.values()) if exactly else draw.uniform(0.02, 1.0) * error(frozenset().union(*unless_all))
    return nodes, error, most


def search(nodes: list[str], error: Error, limit: float) -> tuple[SearchResult, list[Kept]]:
    asked: list[Kept] = []

    def judge(kept: Kept) -> Evaluation:
        asked.append(kept)
        return Evaluation(error(kept) <= limit, error(kept))

    return smallest_set(nodes, judge), asked


def fewest(nodes: list[str], error: Error, limit: float) -> int:
    sizes = range(len(nodes) + 1)
    return next(size for size in sizes if any(error(frozenset(kept)) <= limit for kept in combinations(nodes, size)))


@pytest.mark.parametrize("kind", KINDS)
def test_the_set_is_at_most_one_node_too_large_after_evaluating_a_tenth_of_all_sets(kind: str) -> None:
    off = []
    for seed in range(SEEDS):
        nodes, error, limit = instance(kind, seed)
        found, asked = search(nodes, error, limit)
        assert found.kept is not None
        assert error(found.kept) <= limit
        assert found.evaluations == len(asked) == len(set(asked)) < 0.1 * 2 ** len(nodes)
        off.append(len(found.kept) - fewest(nodes, error, limit))
    assert max(off) <= 1
    assert sum(off) <= SEEDS // 20


def test_the_instances_are_not_trivial() -> None:
    sizes = [fewest(*instance(kind, seed)) for kind in KINDS for seed in range(20)]
    assert max(sizes) >= 6
    assert sum(1 <= size <= 5 for size in sizes) >= 50


def big(needed: set[str], noise: float = 1e-4) -> Error:
    return lambda kept: noise + sum(1.0 for node in needed if node not in kept)


@pytest.mark.parametrize("needed", [{"n77"}, {"n12", "n13"}, {"n3", "n101", "n180"}, {f"n{n}" for n in range(60, 68)}])
def test_few_sets_are_evaluated_for_two_hundred_nodes(needed: set[str]) -> None:
    nodes = [f"n{place}" for place in range(200)]
    groups = [nodes[start : start + 10] for start in range(0, 200, 10)]
    tried: list[Kept] = []

    def judge(kept: Kept) -> Evaluation:
        tried.append(kept)
        return Evaluation(big(needed)(kept) < 0.5, big(needed)(kept))

    found = smallest_set(nodes, judge, groups=groups)
    assert found.kept == frozenset(needed)
    assert len(tried) <= 64


def test_equally_useful_nodes_are_kept_sparingly_in_few_evaluations() -> None:
    nodes = [f"n{place}" for place in range(200)]
    groups = [nodes[start : start + 10] for start in range(0, 200, 10)]
    found = smallest_set(nodes, lambda kept: Evaluation(len(kept) >= 50, 200.0 - len(kept)), groups=groups)
    assert found.kept is not None
    assert 50 <= len(found.kept) <= 60
    assert found.evaluations <= 110


def test_needed_nodes_are_evaluated_first() -> None:
    tried: list[Kept] = []

    def judge(kept: Kept) -> Evaluation:
        tried.append(kept)
        return Evaluation(kept >= {"a", "b"}, 0.0 if kept >= {"a", "b"} else math.inf)

    assert smallest_set("abcdefgh", judge, must="ab").kept == frozenset("ab")
    assert tried == [{"a", "b"}]


def test_one_set_is_evaluated_if_nothing_has_to_be_kept() -> None:
    assert smallest_set("abcdefgh", lambda kept: Evaluation(True, 0.0)) == SearchResult(frozenset(), 1)


def test_nothing_is_found_if_keeping_all_nodes_is_not_enough() -> None:
    assert smallest_set("abcdefgh", lambda kept: Evaluation(False, 1.0)).kept is None


def test_the_cheaper_of_two_equal_nodes_is_kept() -> None:
    def judge(kept: Kept) -> Evaluation:
        return Evaluation(bool(kept & {"c", "f"}), 0.0 if kept & {"c", "f"} else 1.0)

    for dear, cheap in (("c", "f"), ("f", "c")):
        assert smallest_set("abcdefgh", judge, costs={dear: 1.0}).kept == frozenset(cheap)
