"""Compares two runs, bundles, sweeps or device results: facts and figures that changed, and by how much."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
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
    measured (empty if none were). `machines` has those subjects that were measured elsewhere. `states` has the
    states of a sweep's cells by name.
    """

    kind: str
    path: str
    model: str
    machine: str
    facts: Mapping[str, str]
    figures: Mapping[str, Values]
    machines: Mapping[str, str] = field(default_factory=dict)
    states: Mapping[str, str] = field(default_factory=dict)

    def machine_of(self, subject: str) -> str:
        """Where the speeds of a subject were measured."""
        return self.machines.get(subject, self.machine)


@dataclass(frozen=True)
class FactChange:
    """A fact, or the state of a cell, that differs between the sides; None if a side does not have it."""

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
    """All facts, figures and states of cells that differ."""

    facts: tuple[FactChange, ...]
    figures: tuple[FigureChange, ...]
    states: tuple[FactChange, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether both sides are equal."""
        return not (self.facts or self.figures or self.states)


def compare(a: Side, b: Side) -> Difference:
    """The differences from `a` to `b`; for sides of different kinds, only the facts that both of them have count."""
    names = [name for name in {**a.facts, **b.facts} if a.kind == b.kind or (name in a.facts and name in b.facts)]
    return Difference(
        facts=_changes(names, a.facts, b.facts),
        figures=tuple(change for change in figure_changes(a, b) if change.a != change.b),
        states=_changes({**a.states, **b.states}, a.states, b.states),
    )


def _changes(names: Iterable[str], before: Mapping[str, str], after: Mapping[str, str]) -> tuple[FactChange, ...]:
    changes = (FactChange(name, before.get(name), after.get(name)) for name in names)
    return tuple(change for change in changes if change.a != change.b)


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
