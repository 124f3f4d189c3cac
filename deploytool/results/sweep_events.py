"""What happens during a sweep, as plain data: the engine reports events, and whoever follows them shows progress."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from deploytool.results.sweep import CellState

Kind: TypeAlias = tuple[str, ...]  # words that cells of similar cost share, the most telling first: model, precision


@dataclass(frozen=True)
class SweepStarted:
    """The sweep begins: the kinds of the cells that are to be done, one entry for each cell.

    `finished` cells are reused from an earlier call. `workers` do the cells; `dashboard` is the address of the
    scheduler's own page, empty if there is none.
    """

    cells: Sequence[Kind]
    finished: int
    workers: int
    dashboard: str = ""


@dataclass(frozen=True)
class CellStarted:
    """A worker has begun a cell."""

    cell: str
    kind: Kind


@dataclass(frozen=True)
class CellEnded:
    """A cell has ended in a state after `seconds`; `problem` says why it did not pass, empty if it did."""

    cell: str
    kind: Kind
    state: CellState
    seconds: float
    problem: str = ""


@dataclass(frozen=True)
class CellReturned:
    """A cell was running and waits again, because its worker has gone."""

    cell: str
    kind: Kind
    why: str


@dataclass(frozen=True)
class SharedStarted:
    """A worker has begun stages that several cells share."""

    name: str


@dataclass(frozen=True)
class SharedEnded:
    """Stages that several cells share have ended; what failed is told for each of their cells."""

    name: str


@dataclass(frozen=True)
class Remarked:
    """Something about the table that the user may not have meant, as one line."""

    text: str


Event: TypeAlias = Remarked | SweepStarted | CellStarted | CellEnded | CellReturned | SharedStarted | SharedEnded
Follow: TypeAlias = Callable[[Event], None]


def ignore(_: Event) -> None:
    """Follows a sweep without showing anything."""
