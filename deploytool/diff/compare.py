"""Compares two runs, bundles, sweeps or device results: facts and figures that changed, and by how much."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from deploytool.diff.quantities import QUANTITIES

Values = Mapping[str, "Value"]  # by subject: an artifact, a backend, an engine


@dataclass(frozen=True)
class Value:
    """One figure, with the bounds of its 95 % interval if it has one."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Side:
    """One of the two compared things: a run, a bundle, a device result or a sweep.

    `facts` are texts by name, `figures` are measured values by quantity and subject, and `machine` is where speeds were
    measured (empty if none were). `machines` has those subjects that were measured elsewhere.
    """

    kind: str
    path: str
    model: str
    machine: str
    facts: Mapping[str, str]
    figures: Mapping[str, Values]
    machines: Mapping[str, str] = field(default_factory=dict)

    def machine_of(self, subject: str) -> str:
        """Where the speeds of a subject were measured."""
        return self.machines.get(subject, self.machine)


@dataclass(frozen=True)
class FactChange:
    """A fact that differs between the sides; None if a side does not have it."""

    name: str
    a: str | None
    b: str | None


@dataclass(frozen=True)
class FigureChange:
    """One figure on both sides; None if a side does not have it.

    `factor` is b over a, None if undefined. `significant` says whether the 95 % intervals are disjoint, None if they
    are unknown. `comparable` is false for speeds of two different machines.
    """

    quantity: str
    subject: str
    a: Value | None
    b: Value | None
    factor: float | None
    significant: bool | None
    comparable: bool


@dataclass(frozen=True)
class Difference:
    """All facts and figures that differ."""

    facts: tuple[FactChange, ...]
    figures: tuple[FigureChange, ...]

    @property
    def empty(self) -> bool:
        """Whether both sides are equal."""
        return not self.facts and not self.figures


def compare(a: Side, b: Side) -> Difference:
    """The differences from `a` to `b`; for sides of different kinds, only the facts that both of them have count."""
    names = [name for name in {**a.facts, **b.facts} if a.kind == b.kind or (name in a.facts and name in b.facts)]
    facts = tuple(FactChange(name, a.facts.get(name), b.facts.get(name)) for name in names)
    changed = tuple(fact for fact in facts if fact.a != fact.b)
    return Difference(changed, tuple(change for change in figure_changes(a, b) if change.a != change.b))


def figure_changes(a: Side, b: Side) -> Iterator[FigureChange]:
    """Every figure of either side in the order of `QUANTITIES`, also those that are equal."""
    for quantity in QUANTITIES:
        before, after = a.figures.get(quantity, {}), b.figures.get(quantity, {})
        for subject in {**before, **after}:
            same = a.machine_of(subject) == b.machine_of(subject)
            comparable = same or not QUANTITIES[quantity].machine_dependent
            yield _figure_change(quantity, subject, before.get(subject), after.get(subject), comparable=comparable)


def _figure_change(
    quantity: str, subject: str, before: Value | None, after: Value | None, *, comparable: bool
) -> FigureChange:
    if before is None or after is None:
        return FigureChange(quantity, subject, before, after, None, None, comparable)
    factor, significant = _factor(before.value, after.value), _significant(before, after)
    return FigureChange(quantity, subject, before, after, factor, significant, comparable)


def _factor(before: float, after: float) -> float | None:
    if before <= 0:
        return 1.0 if before == after else None
    return min(after / before, sys.float_info.max)  # JSON has no infinity


def _significant(before: Value, after: Value) -> bool | None:
    if before.low is None or before.high is None or after.low is None or after.high is None:
        return None
    return before.high < after.low or after.high < before.low
