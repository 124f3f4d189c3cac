"""What a parity check has been proved to catch: faults that were planted, by family."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

CASES = "cases.npz"  # the file of the cases that would help
LARGE = 4.0  # times the tolerance: no such fault may be missed
MANY = 0.1  # of the faults beyond twice the tolerance: not so many may be
GRAPH, ENGINE = "graph", "engine"  # the two checks: of the graph as converted, and of whatever computes it in FP16
SPOKEN = {GRAPH: "graph check", ENGINE: "FP16 check"}  # what people call them


@dataclass(frozen=True)
class DetectionCount:
    """What became of the faults of one family in one check.

    `caught` were noticed on the golden cases. Of the others, `harmless` move no fresh case by more than twice the
    tolerance, and `missed` do. `smallest` is the smallest error on the golden cases that was noticed.
    """

    caught: int
    harmless: int
    missed: int
    smallest: float | None


@dataclass(frozen=True)
class FaultFamily:
    """The faults of one family: how many were planted, and how many are proved to change nothing."""

    name: str
    planted: int
    equivalent: int
    power: Mapping[str, DetectionCount]


@dataclass(frozen=True)
class MissedFault:
    """A fault that a check missed, and how far it moves fresh cases, in multiples of the tolerance."""

    check: str
    family: str
    place: str
    size: float | None
    effect: float


@dataclass(frozen=True)
class FaultsResult:
    """What the checks of a run catch; `fresh` cases were drawn to judge what they did not.

    `helpful` are those among them with which every missed fault would have been caught.
    """

    families: tuple[FaultFamily, ...]
    missed: tuple[MissedFault, ...]
    fresh: int
    helpful: tuple[int, ...]

    @property
    def weak(self) -> bool:
        """Whether the golden cases see too little to be trusted: they miss a large fault, or many."""
        caught = sum(power.caught for family in self.families for power in family.power.values())
        large = any(missed.effect > LARGE for missed in self.missed)
        return large or len(self.missed) > MANY * (caught + len(self.missed))

    def count(self, check: str, what: str) -> int:
        """How many faults of all families were `caught`, `harmless` or `missed` in one check."""
        return sum(getattr(family.power[check], what) for family in self.families if check in family.power)
