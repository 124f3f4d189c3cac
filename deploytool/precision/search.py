"""Mixed-precision search: finds a small set of nodes to keep in FP32 so that the result holds, in few evaluations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

Kept = frozenset[str]

_SINGLY = 24  # up to this many nodes are tried one by one; more are tried in groups
MOST = 96  # sets that a search evaluates at most, apart from the last few, however many nodes there are


@dataclass(frozen=True)
class Evaluation:
    """Whether a set of kept nodes holds, and the remaining error, in any unit; it may be infinite."""

    holds: bool
    error: float


@dataclass(frozen=True)
class SearchResult:
    """The nodes to keep (None if keeping all is not enough), and how many sets were evaluated."""

    kept: Kept | None
    evaluations: int


def smallest_set(
    nodes: Sequence[str],
    judge: Callable[[Kept], Evaluation],
    must: Iterable[str] = (),
    groups: Sequence[Sequence[str]] = (),
    costs: Mapping[str, float] | None = None,
) -> SearchResult:
    """A small set of `nodes` that holds; keeping more nodes is assumed never to be worse.

    `must` are nodes known to be needed. `groups` is a partition of the nodes, used when there are many: the group with
    the largest error is bisected, repeatedly. Among equally useful nodes those of the least cost are kept. The search
    has four steps, and ends at the first set that holds and cannot be reduced:

    1. leave out each group alone: a group without which the rest fails is needed, and a single node is then proven;
    2. keep each group beside the needed nodes, and rank the groups by the remaining error;
    3. keep the fewest groups of that ranking that hold together, and drop what is superfluous among them;
    4. with the evaluations left, exchange two kept nodes for one other.
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


def smallest_ordered_set(order: Sequence[str], judge: Callable[[Kept], Evaluation], most: int) -> SearchResult:
    """A small set of nodes that holds, for nodes whose order of usefulness is known, the most useful first.

    The fewest leading nodes that hold together are found by bisection; superfluous ones are dropped, the least useful
    first; then two kept nodes are exchanged for one other. After `most` evaluations it ends with the best set so far,
    or, if the bisection needs more, with its result.
    """
    search = _Search(tuple(order), judge, {}, most)
    if search.holds(frozenset()):
        return search.found(frozenset())
    ranked = [(node,) for node in order]
    kept = search.prefix(ranked, frozenset())
    if not search.holds(kept):
        return search.found(kept)
    for node in reversed(order):
        if node in kept and not search.spent() and search.holds(kept - {node}):
            kept -= {node}
    return search.found(search.exchanged(kept, frozenset(), ranked))


class _Search:
    """The steps of the search, with a cache of the evaluated sets."""

    def __init__(
        self,
        nodes: tuple[str, ...],
        judge: Callable[[Kept], Evaluation],
        costs: Mapping[str, float],
        most: int | None = None,
    ) -> None:
        self._judge, self._costs = judge, costs
        self._tried: dict[Kept, Evaluation] = {}
        self._nodes, self.all = nodes, frozenset(nodes)
        usual = min(max(3 * len(nodes), (1 << len(nodes)) // 11), MOST)  # from eight nodes on less than a tenth of all
        self._limit = usual if most is None else most

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

    def spent(self, share: float = 1.0) -> bool:
        """Whether this share of the evaluations has been made."""
        return len(self._tried) >= share * self._limit

    def units(self, groups: Iterable[Sequence[str]], needed: Kept) -> list[tuple[str, ...]]:
        """The units to try: single nodes if there are few, else the groups, with those of the largest error bisected.

        The bisection ends when no group fails and the nodes known to be needed are enough.
        """
        units = [tuple(group) for group in groups if group]
        if sum(map(len, units)) <= _SINGLY:
            return [(node,) for unit in units for node in unit]
        while not self.spent(0.5) and (large := [unit for unit in units if len(unit) > 1]):
            worst = max(large, key=lambda unit: self.without(unit).error)
            if self.without(worst).holds and self.holds(needed | self.proven(units)):
                break
            index = units.index(worst)
            units[index : index + 1] = [worst[: len(worst) // 2], worst[len(worst) // 2 :]]
        return units

    def proven(self, units: Iterable[tuple[str, ...]]) -> Kept:
        """The single nodes without which keeping all others fails."""
        return frozenset(unit[0] for unit in units if len(unit) == 1 and not self.without(unit).holds)

    def ranked(self, units: list[tuple[str, ...]], needed: Kept) -> list[tuple[str, ...]]:
        """The units, most helpful first: by the error left when they are kept, then by the error when they are not."""
        alone = {unit: self.without(unit).error for unit in units}
        order = sorted(units, key=lambda unit: (-alone[unit], self._cost(unit)))
        if not self._finite(needed):
            return order
        helped = {unit: self.judged(needed.union(unit)).error for unit in order if not self.spent(0.75)}
        return sorted(order, key=lambda unit: (helped.get(unit, float("inf")), -alone[unit], self._cost(unit)))

    def _finite(self, kept: Kept) -> bool:
        return self.judged(kept).error < 1e300

    def _cost(self, unit: Iterable[str]) -> float:
        return sum(self._costs.get(node, 0.0) for node in unit)

    def prefix(self, ranked: Sequence[tuple[str, ...]], needed: Kept) -> Kept:
        """The needed nodes and the fewest leading units that hold together, found by bisection."""
        too_few, enough = 0, len(ranked)
        while enough - too_few > 1:
            middle = (too_few + enough) // 2
            too_few, enough = (too_few, middle) if self.holds(_joined(needed, ranked[:middle])) else (middle, enough)
        return _joined(needed, ranked[:enough])

    def dropped(self, unit: Sequence[str], kept: Kept) -> Kept:
        """The kept nodes without the superfluous ones of a unit: all of them at once, or those of each half."""
        unit = [node for node in unit if node in kept]
        if not unit or self.spent() or (len(unit) == 1 and not self.without(unit).holds):
            return kept
        if self.holds(kept.difference(unit)):
            return kept.difference(unit)
        if len(unit) == 1:
            return kept
        for half in (unit[len(unit) // 2 :], unit[: len(unit) // 2]):
            kept = self.dropped(half, kept)
        return kept

    def exchanged(self, kept: Kept, needed: Kept, ranked: Sequence[tuple[str, ...]]) -> Kept:
        """The kept nodes after all exchanges of two of them for one other that hold."""
        while (smaller := next(self._exchanges(kept, needed, ranked), None)) is not None:
            kept = smaller
        return kept

    def _exchanges(self, kept: Kept, needed: Kept, ranked: Sequence[tuple[str, ...]]) -> Iterator[Kept]:
        order = [node for unit in ranked for node in unit] if len(self._nodes) <= _SINGLY else []
        removable = [node for node in reversed(order) if node in kept - needed]
        for other in (node for node in order if node not in kept):
            for pair in combinations(removable, 2):
                if self.spent():
                    return
                if self.holds(kept.difference(pair).union({other})):
                    yield kept.difference(pair).union({other})


def _joined(needed: Kept, units: Iterable[Iterable[str]]) -> Kept:
    return needed.union(*units)
