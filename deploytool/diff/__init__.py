"""Two runs, two bundles, or what a device brought home: what changed, by how much, and whether a budget allows it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from deploytool.diff.quantities import QUANTITIES

Values = Mapping[str, "Value"]  # by place: an artifact, a way to run, an engine


@dataclass(frozen=True)
class Value:
    """One figure, with the bounds of its 95 % interval where it has one."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Side:
    """What one of the two is: a run, a bundle, or what a device brought home.

    `facts` are what is said in words, by name; `figures` what is measured, by quantity and place; `machine` is where
    speeds were measured, empty where none were.
    """

    kind: str
    path: str
    model: str
    machine: str
    facts: Mapping[str, str]
    figures: Mapping[str, Values]


@dataclass(frozen=True)
class Changed:
    """A fact that is not the same on both sides; None where a side does not say it."""

    name: str
    a: str | None
    b: str | None


@dataclass(frozen=True)
class Shift:
    """A figure that is not the same on both sides; None where a side lacks it.

    `factor` is b over a, None where there is none; `sure` says whether the intervals lie apart, None where they are not
    known; `comparable` whether the two can be compared at all, as speeds of two machines cannot.
    """

    quantity: str
    place: str
    a: Value | None
    b: Value | None
    factor: float | None
    sure: bool | None
    comparable: bool


@dataclass(frozen=True)
class Difference:
    """All that is not the same; nothing, if a side is held against itself."""

    facts: tuple[Changed, ...]
    shifts: tuple[Shift, ...]

    @property
    def none(self) -> bool:
        """Whether both sides say and show the same."""
        return not self.facts and not self.shifts


def compare(a: Side, b: Side) -> Difference:
    """What changed from `a` to `b`; sides of two kinds are held against each other in what both of them say."""
    names = [name for name in {**a.facts, **b.facts} if a.kind == b.kind or (name in a.facts and name in b.facts)]
    pairs = ((name, a.facts.get(name), b.facts.get(name)) for name in names)
    facts = tuple(Changed(*pair) for pair in pairs if pair[1] != pair[2])
    return Difference(facts, tuple(shift for shift in shifts(a, b) if shift.a != shift.b))


def shifts(a: Side, b: Side) -> Iterator[Shift]:
    """Every figure of either side, also those that are the same, in the order of the quantities."""
    for quantity in QUANTITIES:
        here, there = a.figures.get(quantity, {}), b.figures.get(quantity, {})
        for place in {**here, **there}:
            yield _shift(quantity, place, (a, here.get(place)), (b, there.get(place)))


def _shift(quantity: str, place: str, one: tuple[Side, Value | None], other: tuple[Side, Value | None]) -> Shift:
    (a, before), (b, after) = one, other
    comparable = not QUANTITIES[quantity].of_machine or a.machine == b.machine
    if before is None or after is None:
        return Shift(quantity, place, before, after, None, None, comparable)
    return Shift(quantity, place, before, after, _factor(before.value, after.value), _sure(before, after), comparable)


def _factor(before: float, after: float) -> float | None:
    if before <= 0:
        return 1.0 if before == after else None
    return min(after / before, sys.float_info.max)  # JSON has no infinity


def _sure(before: Value, after: Value) -> bool | None:
    if before.low is None or before.high is None or after.low is None or after.high is None:
        return None
    return before.high < after.low or after.high < before.low
