"""Result of fault injection: how many planted faults each parity check catches, by family of faults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

CASES = "cases.npz"  # file with the cases that would catch the missed faults
MAX_MISSED_EFFECT = 4.0  # times the tolerance: a missed fault with a larger effect makes the golden cases weak
MAX_MISSED_SHARE = 0.1  # of caught and missed faults together: a larger missed share makes the golden cases weak
GRAPH, ENGINE = "graph", "engine"  # the two checks: of the graph as converted, and of its results in FP16
CHECK_LABELS = {GRAPH: "graph check", ENGINE: "FP16 check"}  # names for people


@dataclass(frozen=True)
class DetectionCount:
    """Outcome of the faults of one family in one check.

    `caught` faults fail the check on the golden cases. The others are `harmless` if no fresh case moves by more than
    twice the tolerance, else `missed`. `smallest` is the smallest error of a caught fault on the golden cases.
    """

    caught: int
    harmless: int
    missed: int
    smallest: float | None


@dataclass(frozen=True)
class FaultFamily:
    """The faults of one family: how many were planted, how many provably change nothing, and the outcome by check."""

    name: str
    planted: int
    equivalent: int
    by_check: Mapping[str, DetectionCount]


@dataclass(frozen=True)
class MissedFault:
    """A fault that a check missed; `effect` is its largest error on fresh cases, in multiples of the tolerance."""

    check: str
    family: str
    place: str
    size: float | None
    effect: float


@dataclass(frozen=True)
class FaultsResult:
    """Outcome of all planted faults; the uncaught ones were judged on `fresh` new cases.

    `helpful` are the indices of those fresh cases with which every missed fault would have been caught.
    """

    families: tuple[FaultFamily, ...]
    missed: tuple[MissedFault, ...]
    fresh: int
    helpful: tuple[int, ...]

    @property
    def weak(self) -> bool:
        """Whether the golden cases miss a large fault, or too many faults."""
        caught = sum(count.caught for family in self.families for count in family.by_check.values())
        large = any(missed.effect > MAX_MISSED_EFFECT for missed in self.missed)
        return large or len(self.missed) > MAX_MISSED_SHARE * (caught + len(self.missed))

    def count(self, check: str, outcome: str) -> int:
        """The number of faults of all families that are `caught`, `harmless` or `missed` in one check."""
        return sum(getattr(family.by_check[check], outcome) for family in self.families if check in family.by_check)
