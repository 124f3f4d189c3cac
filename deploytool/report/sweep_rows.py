"""What the page of a sweep says in words: its outcome, totals, failures, what is pending, machines and timing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from statistics import median

from deploytool.report import sweep_map
from deploytool.report.sweep_map import DIMENSIONS, MARKS
from deploytool.report.tiles import Tile, Tone
from deploytool.results import sweep_figures
from deploytool.results.sweep import CellResult, CellState, Machine, Sweep

NONE = "–"
_GROUPS = 40  # of failures and of pending work that are listed
_NAMED = 6  # cells that are named in a group
_VALUES = 12  # of an option in the table of totals
_MACHINES = 40
_LISTED_OVERLAPS = 5
_CLOCK_S = 0.001  # resolution of the times of a cell
_BAD = (CellState.FAILED, CellState.REFUSED, CellState.LOST)


@dataclass(frozen=True)
class Named:
    """A cell and the page that it has, if any."""

    name: str
    link: str


@dataclass(frozen=True)
class Group:
    """Cells that share a text: the first of them by name, and how many there are."""

    cells: tuple[Named, ...]
    count: int

    @property
    def more(self) -> int:
        """How many cells are not named."""
        return self.count - len(self.cells)


@dataclass(frozen=True)
class Failure:
    """Why cells did not pass, and what helps; the name of each single cell is `CELL` if there are several."""

    mark: str
    state: str
    exit_code: int
    problem: str
    remedy: str
    group: Group


@dataclass(frozen=True)
class Waiting:
    """What can only be done on a device, for which cells."""

    device: str
    what: str
    status: str
    reason: str
    group: Group


@dataclass(frozen=True)
class Timing:
    """Which cells were timed, and those that another cell overlapped on the same machine, which must not happen."""

    timed: int
    untimed: int
    overlaps: tuple[str, ...]


def tone(sweep: Sweep) -> Tone:
    """Bad if a cell did not pass, open if one is not made yet, else good."""
    if any(result.state in _BAD for result in sweep.cells):
        return Tone("bad", "✕")
    return Tone("open", "?") if sweep.count(CellState.PENDING) or not sweep.cells else Tone("good", "✓")


def headline(sweep: Sweep) -> str:
    """The outcome in a few words."""
    total, passed = len(sweep.cells), sweep.count(CellState.PASSED)
    bad = sum(result.state in _BAD for result in sweep.cells)
    if bad:
        return f"{bad:,} of {total:,} cells did not pass"
    if passed < total:
        return f"{passed:,} of {total:,} cells are finished"
    return "The cell passed" if total == 1 else f"All {total:,} cells passed"


def tiles(sweep: Sweep) -> tuple[Tile, ...]:
    """Cells that passed, cells that did not, what is pending, the best speed-up, and the time."""
    total = len(sweep.cells)
    bad = [(state, sweep.count(state)) for state in _BAD if sweep.count(state)]
    waiting = [result for result in sweep.cells if result.pending]
    devices = dict.fromkeys(each.device for result in waiting for each in result.pending)
    unmade = sweep.count(CellState.PENDING)
    passed_line = f"{unmade} not made yet" if unmade else "every cell has ended"
    return (
        Tile("Cells passed", f"{sweep.count(CellState.PASSED):,} of {total:,}", passed_line),
        Tile(
            "Did not pass",
            str(sum(count for _, count in bad)),
            ", ".join(f"{count} {state}" for state, count in bad) or "no failure, no refusal",
            alarm=bool(bad),
        ),
        Tile("Pending on a device", str(len(waiting)), _listed(list(devices), 4) or "nothing is left for a device"),
        _best(sweep),
        Tile("Wall time", duration(sweep.seconds), _work(sweep)),
    )


def _best(sweep: Sweep) -> Tile:
    timed = [(speed, result) for result in sweep.cells if (speed := sweep_figures.fastest(result))]
    if not timed:
        return Tile("Best speed-up", NONE, "no cell has a speed-up with a verdict")
    best, result = max(timed, key=lambda pair: pair[0].ratio or 0.0)
    middle = median(speed.ratio or 0.0 for speed, _ in timed)
    return Tile("Best speed-up", f"{best.ratio:.2f}×", f"{result.cell.name}; median of {len(timed)}: {middle:.2f}×")


def _work(sweep: Sweep) -> str:
    reused = f", {sweep.reused} cells were there before" if sweep.reused else ""
    workers = f"{sweep.workers} worker{'s' if sweep.workers != 1 else ''}"
    return f"{duration(sweep.work_seconds)} of work on {workers}{reused}"


def duration(seconds: float) -> str:
    """A duration with the two units that matter."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def totals(sweep: Sweep) -> Iterator[tuple[str, ...]]:
    """One row for each value of an option that differs: option, value, cells, passed, did not pass, left, speed-up."""
    for option, text in {"model": lambda cell: cell.model, **DIMENSIONS}.items():
        by_value: dict[str, list[CellResult]] = {}
        for result in sweep.cells:
            by_value.setdefault(text(result.cell), []).append(result)
        if len(by_value) < 2 or (option == "model" and len(by_value) > _VALUES):
            continue
        for value, results in list(by_value.items())[:_VALUES]:
            yield (option, value, *_totals(results))
        if len(by_value) > _VALUES:
            rest = [result for results in list(by_value.values())[_VALUES:] for result in results]
            yield (option, f"{len(by_value) - _VALUES} others", *_totals(rest))


def _totals(results: Sequence[CellResult]) -> tuple[str, ...]:
    states = [result.state for result in results]
    bad, left = sum(state in _BAD for state in states), states.count(CellState.PENDING)
    found = [speed.ratio or 0.0 for speed in map(sweep_figures.fastest, results) if speed]
    speed = f"{median(found):.2f}×" if found else NONE
    return (str(len(states)), str(states.count(CellState.PASSED)), str(bad), str(left), speed)


def failures(sweep: Sweep, home: Path) -> tuple[tuple[Failure, ...], int]:
    """Why cells did not pass, the most frequent reason first, and the number of reasons that are left out."""
    grouped: dict[tuple[str, str, int, str, str], list[CellResult]] = {}
    for result in sweep.cells:
        if result.state in _BAD:
            problem, remedy = (_anonymous(text, result) for text in (result.problem, result.remedy))
            key = (MARKS[result.state], sweep_map.words(result), result.exit_code, problem, remedy)
            grouped.setdefault(key, []).append(result)
    ordered = sorted(grouped.items(), key=lambda item: -len(item[1]))
    return tuple(_failure(key, results, home) for key, results in ordered[:_GROUPS]), len(ordered[_GROUPS:])


def _failure(key: tuple[str, str, int, str, str], results: Sequence[CellResult], home: Path) -> Failure:
    mark, state, code, problem, remedy = key
    if len(results) == 1:
        problem, remedy = results[0].problem, results[0].remedy
    return Failure(mark, state, code, problem or "no reason was recorded", remedy, _group(results, home))


def _anonymous(text: str, result: CellResult) -> str:
    """A text without the names of its cell, so that equal reasons are equal."""
    for name in sorted({result.folder, result.cell.name} - {""}, key=len, reverse=True):
        text = text.replace(name, "CELL")
    return text


def waiting(sweep: Sweep, home: Path) -> tuple[tuple[Waiting, ...], int]:
    """What is pending on which device, and the number of rows that are left out."""
    grouped: dict[tuple[str, str, str, str], list[CellResult]] = {}
    for result in sweep.cells:
        for each in result.pending:
            key = (each.device, each.what, each.status, _anonymous(each.reason, result))
            grouped.setdefault(key, []).append(result)
    rows = [Waiting(*key, _group(results, home)) for key, results in sorted(grouped.items())]
    return tuple(rows[:_GROUPS]), len(rows[_GROUPS:])


def _group(results: Sequence[CellResult], home: Path) -> Group:
    named = tuple(Named(result.cell.name, sweep_map.link(result, home)) for result in results[:_NAMED])
    return Group(named, len(results))


def timing(sweep: Sweep) -> Timing:
    """The timed cells, and whether another cell ran on the machine of one while it was timed."""
    by_machine: dict[str, list[CellResult]] = {}
    for result in sweep.cells:
        if result.machine and result.started is not None and result.ended is not None:
            by_machine.setdefault(result.machine.name, []).append(result)
    timed = sum(result.timed for result in sweep.cells)
    overlaps = [line for name, results in by_machine.items() for line in _overlaps(name, results)]
    if len(overlaps) > _LISTED_OVERLAPS:
        overlaps = [*overlaps[:_LISTED_OVERLAPS], f"and {len(overlaps) - _LISTED_OVERLAPS} more"]
    return Timing(timed, len(sweep.cells) - timed, tuple(overlaps))


def _overlaps(machine: str, results: Sequence[CellResult]) -> Iterator[str]:
    """The pairs of cells that ran at the same time, one of them being timed."""
    latest: CellResult | None = None
    latest_timed: CellResult | None = None
    for result in sorted(results, key=lambda result: result.started or 0.0):
        other = latest if result.timed else latest_timed
        if other and (other.ended or 0.0) - (result.started or 0.0) > _CLOCK_S:
            yield f"{other.cell.name} and {result.cell.name} on {machine}"
        latest = _later(latest, result)
        latest_timed = _later(latest_timed, result) if result.timed else latest_timed


def _later(first: CellResult | None, second: CellResult) -> CellResult:
    return first if first and (first.ended or 0.0) > (second.ended or 0.0) else second


def machines(sweep: Sweep) -> tuple[list[tuple[str, ...]], int]:
    """One row for each machine: name, processor, GPUs, cells, timed cells, time; and how many are left out."""
    by_machine: dict[Machine, list[CellResult]] = {}
    for result in sweep.cells:
        if result.machine:
            by_machine.setdefault(result.machine, []).append(result)
    rows: list[tuple[str, ...]] = [
        (
            *(machine.name, machine.processor or NONE, ", ".join(machine.gpus) or "none", str(len(results))),
            *(str(sum(result.timed for result in results)), duration(sum(result.seconds for result in results))),
        )
        for machine, results in by_machine.items()
    ]
    return rows[:_MACHINES], len(rows[_MACHINES:])


def about(sweep: Sweep) -> str:
    """What the sweep is the product of: `12 models, 2 exporters, 5 targets: 120 cells`."""
    names = {"model": lambda cell: cell.model, **DIMENSIONS}
    counts = {name: len({text(result.cell) for result in sweep.cells}) for name, text in names.items()}
    plurals = {"batch": "batch sizes", "weights": "sets of weights", "data": "sets of data", "checks": "sets of checks"}
    words = [
        f"{count} {plurals.get(name, f'{name}s') if count > 1 else name}"
        for name, count in counts.items()
        if count > 1 or name == "model"
    ]
    total = len(sweep.cells)
    return f"{', '.join(words)}: {total:,} cell{'s' if total != 1 else ''}"


def as_of(sweep: Sweep) -> str:
    """When the sweep was as the page shows it, in UTC: `1 December 2026, 13:40:05 UTC`."""
    moment = datetime.fromtimestamp(sweep.written, timezone.utc)
    return f"{moment.day} {moment:%B %Y, %H:%M:%S} UTC"


def _listed(names: Sequence[str], count: int) -> str:
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more
