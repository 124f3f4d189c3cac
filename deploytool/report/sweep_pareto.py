"""The Pareto fronts of a sweep: the fastest file of each cell by latency, against its size and its accuracy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from deploytool.report import compare_runs, pareto
from deploytool.report.rows import Point
from deploytool.report.svg import Plot
from deploytool.report.sweep_csv import batch_text
from deploytool.results import sweep_figures
from deploytool.results.sweep import CellResult, CellState, Sweep

_POINTS = 150  # of a plot: with more, some of those that are not on the front are left out
_PLOTS = 6  # of a page
_SMALLEST_ERROR = 1e-9  # replaces zero on a logarithmic axis
_MEGABYTE = 1e6


class Vertical(StrEnum):
    """What latency is plotted against: the label of the vertical axis."""

    SIZE = "size, MB"
    ERROR = "largest error"
    ACCURACY = "accuracy"


@dataclass(frozen=True)
class Front:
    """One plot: the cells of one machine and batch size, the points that were drawn, and the number of those left out.

    `signs` are the markers of the models, empty if there are too many to tell apart.
    """

    where: str
    vertical: Vertical
    plot: Plot
    points: tuple[Point, ...]
    left_out: int
    signs: tuple[tuple[str, str], ...]

    @property
    def front(self) -> tuple[Point, ...]:
        """The points on the Pareto front, the fastest first."""
        return tuple(point for point in self.points if point.front)


def fronts(sweep: Sweep) -> tuple[tuple[Front, ...], int]:
    """The plots, those of the machines with the most cells first, and how many are left out."""
    by_place: dict[tuple[str, str], list[CellResult]] = {}
    for result in sweep.cells:
        if result.machine and sweep_figures.fastest(result):
            place = (result.machine.name, _batch(result))
            by_place.setdefault(place, []).append(result)
    wanted = []
    for (machine, batch), results in sorted(by_place.items(), key=lambda item: -len(item[1])):
        where = f"On {machine}, {batch}"
        has_labels = any(sweep_figures.accuracy(result) is not None for result in results)
        closeness = (Vertical.ACCURACY, _accuracy, False) if has_labels else (Vertical.ERROR, _error, True)
        for vertical, measure, small in ((Vertical.SIZE, _megabytes, True), closeness):
            if points := _points(results, measure):
                wanted.append((where, vertical, compare_runs.mark_front(points, lower=small), small))
    drawn = tuple(
        _front(number, where, vertical, points, small=small)
        for number, (where, vertical, points, small) in enumerate(wanted[:_PLOTS])
    )
    return drawn, len(wanted[_PLOTS:])


def _front(number: int, where: str, vertical: Vertical, points: Sequence[Point], *, small: bool) -> Front:
    shown = _thinned(points)
    better = "smaller" if vertical is Vertical.SIZE else "more accurate"
    title = "Latency and size" if vertical is Vertical.SIZE else f"Latency and {vertical}"
    signs = pareto.model_signs([point.model for point in shown])
    signs = signs if len(signs) <= pareto.SIGNS else []
    caption = pareto.caption(better)
    plot = pareto.pareto(shown, vertical, number, logarithmic=small, title=title, caption=caption, signs=bool(signs))
    return Front(where, vertical, plot, shown, len(points) - len(shown), tuple(signs))


def _thinned(points: Sequence[Point]) -> tuple[Point, ...]:
    """The front, and as many of the other points as fit, evenly by latency."""
    others = [point for point in points if not point.front]
    front = [point for point in points if point.front]
    room = max(_POINTS - len(front), 0)
    if len(others) > room:
        others = [others[index * len(others) // room] for index in range(room)]
    return tuple(sorted([*front[:_POINTS], *others], key=lambda point: point.latency))


def _points(results: Sequence[CellResult], measure: Callable[[CellResult], float | None]) -> list[Point]:
    """One point for each file: cells that share it, as those of several targets, are one."""
    points: dict[str, Point] = {}
    for result in results:
        speed, value = sweep_figures.fastest(result), measure(result)
        if speed is None or speed.latency_ms is None or value is None:
            continue
        file = f"{speed.stage}/{speed.file}"
        label = f"{result.cell.name} {speed.stage}"
        point = Point(result.cell.model, label, speed.latency_ms, value, result.state is CellState.PASSED, front=False)
        points.setdefault(result.digests.get(file) or result.cell.name, point)
    return list(points.values())


def _megabytes(result: CellResult) -> float | None:
    """The size of the fastest file, which the latency is of."""
    speed = sweep_figures.fastest(result)
    size = sweep_figures.size_of(result, f"{speed.stage}/{speed.file}") if speed else None
    return None if size is None else max(size, 1) / _MEGABYTE


def _error(result: CellResult) -> float | None:
    worst = sweep_figures.worst(result)
    return None if worst is None or worst.error is None else max(worst.error, _SMALLEST_ERROR)


def _batch(result: CellResult) -> str:
    return f"batch {batch_text(result.cell.batch)}" if result.cell.batch else "default batch"


def _accuracy(result: CellResult) -> float | None:
    return sweep_figures.accuracy(result)


def shown_value(front: Front, point: Point) -> str:
    """The vertical position of a point as text."""
    if front.vertical is Vertical.ACCURACY:
        return f"{100 * point.value:.1f} %"
    return f"{point.value:.1e}" if front.vertical is Vertical.ERROR else f"{point.value:.2f}"
