"""Finds a smallest set of nodes whose exact arithmetic makes the rest good enough, in few evaluations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

Kept = frozenset[str]

_SINGLY = 24  # up to so many nodes each is tried alone, of more whole groups are
MOST = 96  # sets that a search tries, however many nodes there are, give or take the last few


@dataclass(frozen=True)
class Evaluation:
    """Whether a set holds, and the error it leaves, in any unit and infinite if need be."""

    holds: bool
    error: float


@dataclass(frozen=True)
class SearchResult:
    """The nodes to keep (None if not even all of them would do), and how many sets were tried to find them."""

    kept: Kept | None
    evaluations: int


def smallest_set(
    nodes: Sequence[str],
    judge: Callable[[Kept], Evaluation],
    must: Iterable[str] = (),
    groups: Sequence[Sequence[str]] = (),
    costs: Mapping[str, float] | None = None,
) -> SearchResult:
    """A small set of `nodes` that holds, where a larger set never does worse than a smaller one it contains.

    `must` are nodes known to be needed. `groups` is a partition of the nodes, by which many nodes are tried: of the
    group that matters most the halves are tried, then theirs. Of equally telling nodes the ones of the least cost are
    kept. The search is in four steps, and ends at the first set that holds and cannot be made smaller:

    1. each group alone is not kept: what fails then is needed, and for a single node that is a proof;
    2. each group is kept beside what is needed: one that suffices is the answer;
    3. the groups that help most, as few as hold together, without those that turn out to be superfluous;
    4. with the evaluations left, two of those are exchanged for one other.
    """
    search = _Search(tuple(nodes), judge, costs or {})
    needed = frozenset(must)
    if search.holds(needed):
        return search.found(needed)
    units = search.units([[node for node in group if node not in needed] for group in groups or [nodes]], needed)
    needed |= search.proven(units)
    if search.holds(needed):
        return search.found(needed)
    if not any(search.without(unit).holds for unit in units) and not search.holds(search.all):
        return search.found(search.all)
    ranked = search.ranked([unit for unit in units if not needed.issuperset(unit)], needed)
    kept = search.prefix(ranked, needed)
    for unit in reversed(ranked):
        kept = search.dropped(unit, kept)
    return search.found(search.exchanged(kept, needed, ranked))


class _Search:
    """The sets that were tried, so that none is tried twice, and the steps of the search."""

    def __init__(self, nodes: tuple[str, ...], judge: Callable[[Kept], Evaluation], costs: Mapping[str, float]) -> None:
        self._judge, self._costs = judge, costs
        self._tried: dict[Kept, Evaluation] = {}
        self._nodes, self.all = nodes, frozenset(nodes)
        self._limit = min(max(3 * len(nodes), (1 << len(nodes)) // 11), MOST)  # from eight nodes on a tenth of all sets

    def judged(self, kept: Kept) -> Evaluation:
        if kept not in self._tried:
            self._tried[kept] = self._judge(kept)
        return self._tried[kept]

    def holds(self, kept: Kept) -> bool:
        return self.judged(kept).holds

    def without(self, unit: Iterable[str]) -> Evaluation:
        return self.judged(self.all - frozenset(unit))

    def found(self, kept: Kept) -> SearchResult:
        held = kept if self.holds(kept) else None
        return SearchResult(held, len(self._tried))

    def _spent(self, share: float = 1.0) -> bool:
        return len(self._tried) >= share * self._limit

    def units(self, groups: Iterable[Sequence[str]], needed: Kept) -> list[tuple[str, ...]]:
        """Few nodes one by one; of many the groups, and the halves of those whose error is largest, again and again.

        The halving ends when no group fails any more and what is known to be needed is enough.
        """
        units = [tuple(group) for group in groups if group]
        if sum(map(len, units)) <= _SINGLY:
            return [(node,) for unit in units for node in unit]
        while not self._spent(0.5) and (large := [unit for unit in units if len(unit) > 1]):
            worst = max(large, key=lambda unit: self.without(unit).error)
            if self.without(worst).holds and self.holds(needed | self.proven(units)):
                break
            place = units.index(worst)
            units[place : place + 1] = [worst[: len(worst) // 2], worst[len(worst) // 2 :]]
        return units

    def proven(self, units: Iterable[tuple[str, ...]]) -> Kept:
        """The single nodes without which not even everything else would do."""
        return frozenset(unit[0] for unit in units if len(unit) == 1 and not self.without(unit).holds)

    def ranked(self, units: list[tuple[str, ...]], needed: Kept) -> list[tuple[str, ...]]:
        """The units, most helpful first: the error that is left with them, and the error that they alone make."""
        alone = {unit: self.without(unit).error for unit in units}
        order = sorted(units, key=lambda unit: (-alone[unit], self._cost(unit)))
        if not self._finite(needed):
            return order
        helped = {unit: self.judged(needed.union(unit)).error for unit in order if not self._spent(0.75)}
        return sorted(order, key=lambda unit: (helped.get(unit, float("inf")), -alone[unit], self._cost(unit)))

    def _finite(self, kept: Kept) -> bool:
        return self.judged(kept).error < 1e300

    def _cost(self, unit: Iterable[str]) -> float:
        return sum(self._costs.get(node, 0.0) for node in unit)

    def prefix(self, ranked: Sequence[tuple[str, ...]], needed: Kept) -> Kept:
        """What is needed and the fewest of the units, in their order, that hold together."""
        few, enough = 0, len(ranked)
        while enough - few > 1:
            middle = (few + enough) // 2
            few, enough = (few, middle) if self.holds(_joined(needed, ranked[:middle])) else (middle, enough)
        return _joined(needed, ranked[:enough])

    def dropped(self, unit: Sequence[str], kept: Kept) -> Kept:
        """The kept nodes without those of a unit that are superfluous: all of them at once, or of each half."""
        unit = [node for node in unit if node in kept]
        if not unit or self._spent() or (len(unit) == 1 and not self.without(unit).holds):
            return kept
        if self.holds(kept.difference(unit)):
            return kept.difference(unit)
        if len(unit) == 1:
            return kept
        for half in (unit[len(unit) // 2 :], unit[: len(unit) // 2]):
            kept = self.dropped(half, kept)
        return kept

    def exchanged(self, kept: Kept, needed: Kept, ranked: Sequence[tuple[str, ...]]) -> Kept:
        """The kept nodes after every exchange of two of them for one other that holds."""
        while (smaller := next(self._exchanges(kept, needed, ranked), None)) is not None:
            kept = smaller
        return kept

    def _exchanges(self, kept: Kept, needed: Kept, ranked: Sequence[tuple[str, ...]]) -> Iterator[Kept]:
        order = [node for unit in ranked for node in unit] if len(self._nodes) <= _SINGLY else []
        loose = [node for node in reversed(order) if node in kept - needed]
        for other in (node for node in order if node not in kept):
            for pair in combinations(loose, 2):
                if self._spent():
                    return
                if self.holds(kept.difference(pair).union({other})):
                    yield kept.difference(pair).union({other})


def _joined(needed: Kept, units: Iterable[Iterable[str]]) -> Kept:
    return needed.union(*units)
