"""The heat map of a sweep: models × targets, one map for each combination of the other options, or all in one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from urllib.parse import quote

from deploytool.host import disk
from deploytool.report.sweep_csv import batch_text
from deploytool.results import sweep_figures
from deploytool.results.artifact import PAGE
from deploytool.results.sweep import Cell, CellResult, CellState, Sweep

MARKS: Mapping[CellState, str] = {  # signs that need no colour
    CellState.PASSED: "✓",
    CellState.FAILED: "✕",
    CellState.REFUSED: "⊘",
    CellState.LOST: "?",
    CellState.PENDING: "○",
}
DIMENSIONS: Mapping[str, Callable[[Cell], str]] = {  # how cells may differ beside their model, as text
    "target": lambda cell: cell.target or "no target",
    "precision": lambda cell: cell.precision.value,
    "exporter": lambda cell: cell.exporter,
    "batch": lambda cell: f"batch {batch_text(cell.batch)}" if cell.batch else "default batch",
    "weights": lambda cell: cell.weights or "no weights file",
    "data": lambda cell: cell.data or "synthetic data",
    "checks": lambda cell: "quick" if cell.quick else "all checks",
}
HEAT = (0.95, 1.5, 2.5, 5.0)  # speed-ups at which the tint of a square changes
_SQUARES = 1500  # of a page: with more, cells are folded
_COLUMNS, _ROWS = 24, 60  # of a map that has more squares: further ones are folded
_OPEN = 400  # squares that are unfolded at first
_WORST_FIRST = (CellState.LOST, CellState.REFUSED, CellState.FAILED, CellState.PENDING, CellState.PASSED)

Results = Sequence[CellResult]


@dataclass(frozen=True)
class Square:
    """One cell, or several that are folded: style, sign, verdict, figures, and the page of a single cell."""

    tone: str
    mark: str
    words: str
    figures: tuple[str, ...]
    pending: str = ""
    link: str = ""


@dataclass(frozen=True)
class Row:
    """The squares of one model, None where the sweep has no cell; `note` tells its other options."""

    model: str
    note: str
    squares: tuple[Square | None, ...]


@dataclass(frozen=True)
class HeatMap:
    """One table of the page; `is_open` says whether it is unfolded at first."""

    title: str
    counts: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    is_open: bool


@dataclass(frozen=True)
class Axes:
    """Which options differ within a model: one makes the columns, the others the groups; `fixed` differ by model."""

    columns: str
    groups: tuple[str, ...]
    fixed: tuple[str, ...]


def maps(sweep: Sweep, home: Path) -> tuple[tuple[HeatMap, ...], str]:
    """The maps of a sweep in the folder `home`, and one line that says what was folded, empty if nothing was."""
    axes = find_axes([result.cell for result in sweep.cells])
    columns = list(dict.fromkeys(DIMENSIONS[axes.columns](result.cell) for result in sweep.cells))
    models = list(dict.fromkeys(result.cell.model for result in sweep.cells))
    kept = list(axes.groups)
    while kept and len(_groups(sweep.cells, kept)) * len(columns) * len(models) > _SQUARES:
        kept.pop()
    grouped = _groups(sweep.cells, kept)
    shown = (columns, models)
    if len(columns) * len(models) > _SQUARES:
        shown = (columns[:_COLUMNS], _worst_models(sweep.cells, models, _ROWS))
    squares = len(grouped) * len(columns) * len(models)
    unfolded = max(1, _OPEN * len(grouped) // max(squares, 1))
    built = [
        _map(" · ".join(words) or "all cells", results, axes, shown, home, is_open=index < unfolded)
        for index, (words, results) in enumerate(grouped.items())
    ]
    return tuple(built), _folding(axes.groups[len(kept) :], *(len(names) for names in (*shown, columns, models)))


def _groups(results: Results, names: Sequence[str]) -> dict[tuple[str, ...], list[CellResult]]:
    """The cells by their values of some options."""
    grouped: dict[tuple[str, ...], list[CellResult]] = {}
    for result in results:
        grouped.setdefault(tuple(DIMENSIONS[name](result.cell) for name in names), []).append(result)
    return grouped


def _folding(merged: Sequence[str], shown_columns: int, shown_models: int, columns: int, models: int) -> str:
    """What the squares of a large sweep stand for; empty if each is one cell."""
    words = [f"a square stands for the cells of every {' and '.join(merged)}"] if merged else []
    words += [f"the last column for {columns - shown_columns} more"] if shown_columns < columns else []
    hidden = models - shown_models
    words += [f"the last row for {hidden} more models, those with the fewest failures"] if hidden else []
    return f"The sweep is large, so {', and '.join(words)}." if words else ""


def find_axes(cells: Sequence[Cell]) -> Axes:
    """The roles of the options: targets are the columns, unless there is only one and another option differs."""
    values = {name: {text(cell) for cell in cells} for name, text in DIMENSIONS.items()}
    differing = [name for name, found in values.items() if len(found) > 1]
    fixed = tuple(name for name in differing if name != "target" and _is_fixed(cells, DIMENSIONS[name]))
    free = [name for name in differing if name not in fixed]
    columns = free[0] if free else "target"
    return Axes(columns, tuple(name for name in free if name != columns), fixed)


def _is_fixed(cells: Sequence[Cell], text: Callable[[Cell], str]) -> bool:
    """Whether every model has one value of an option."""
    by_model: dict[str, str] = {}
    return all(by_model.setdefault(cell.model, text(cell)) == text(cell) for cell in cells)


def _worst_models(results: Results, models: Sequence[str], count: int) -> list[str]:
    """At most `count` models in the order of the table, and those with the most cells that did not pass."""
    bad = dict.fromkeys(models, 0)
    for result in results:
        bad[result.cell.model] += result.state is not CellState.PASSED
    kept = set(sorted(models, key=lambda model: -bad[model])[:count])
    return [model for model in models if model in kept]


def _map(
    title: str,
    results: Results,
    axes: Axes,
    kept: tuple[Sequence[str], Sequence[str]],
    home: Path,
    *,
    is_open: bool,
) -> HeatMap:
    """The map of some cells; those beyond the `kept` columns and models go to one last column or row."""
    columns, models = ({name: index for index, name in enumerate(names)} for names in kept)
    squares: dict[tuple[int, int], list[CellResult]] = {}
    fixed_words: dict[int, str] = {}
    for result in results:
        row = models.get(result.cell.model, len(models))
        place = (row, columns.get(DIMENSIONS[axes.columns](result.cell), len(columns)))
        squares.setdefault(place, []).append(result)
        if row < len(models):
            fixed_words[row] = " · ".join(DIMENSIONS[name](result.cell) for name in axes.fixed)
    filled = sorted({column for _, column in squares})
    names = [[*columns, "all others"][column] for column in filled]
    labels = [*models, *(["all other models"] if any(row == len(models) for row, _ in squares) else [])]
    rows = [
        Row(label, fixed_words.get(row, ""), tuple(_square(squares.get((row, at), ()), home) for at in filled))
        for row, label in enumerate(labels)
        if row in fixed_words or row == len(models)
    ]
    passed = sum(result.state is CellState.PASSED for result in results)
    return HeatMap(title, f"{passed:,} of {len(results):,} passed", tuple(names), tuple(rows), is_open)


def _square(results: Results, home: Path) -> Square | None:
    if not results:
        return None
    return _single(results[0], home) if len(results) == 1 else _folded(results)


def _single(result: CellResult, home: Path) -> Square:
    figures = []
    if speed := sweep_figures.fastest(result):
        figures.append(f"{speed.ratio:.2f}× {speed.stage}")
    elif result.timed and result.speeds:
        figures.append("speed: no verdict")
    size, worst, same = sweep_figures.size(result), sweep_figures.worst(result), sweep_figures.agreement(result)
    figures += [] if size is None else [disk.size(size)]
    figures += [] if worst is None or worst.tolerances is None else [f"error {amount(worst.tolerances)}"]
    figures += [] if same is None else [f"agrees {100 * same:.4g} %"]
    drop = sweep_figures.largest_drop(result)
    figures += [] if drop is None else [f"{drop.metric} {0 - drop.value:+.4f}: {drop.verdict}"]
    pending = ""
    if result.pending:
        more = f", {len(result.pending) - 1} more" if len(result.pending) > 1 else ""
        pending = f"○ {result.pending[0].status}{more}"
    heat = f"heat{sum(speed.ratio >= limit for limit in HEAT)}" if speed and speed.ratio else "heat0"
    tone = {CellState.PASSED: heat, CellState.PENDING: "open"}.get(result.state, "bad")
    return Square(tone, MARKS[result.state], words(result), tuple(figures), pending, link(result, home))


def words(result: CellResult) -> str:
    """What became of a cell, in one or two words."""
    if result.state is CellState.PASSED:
        return "pass"
    if result.state is CellState.FAILED and result.verdict:
        return str(result.verdict.value)
    return "not made yet" if result.state is CellState.PENDING else str(result.state)


def amount(tolerances: float) -> str:
    """An error in multiples of its tolerance, with two digits; what stands for infinity is `not finite`."""
    if tolerances > 1e6:
        return "not finite" if tolerances > 1e300 else "over a million"
    return f"{tolerances:.2g}" if tolerances < 10 else f"{tolerances:,.0f}"


def _folded(results: Results) -> Square:
    """Several cells as one square: how many passed, the median speed-up, the largest error."""
    states = [result.state for result in results]
    worst_state = next(state for state in _WORST_FIRST if state in states)
    passed = states.count(CellState.PASSED)
    found = [speed.ratio for speed in map(sweep_figures.fastest, results) if speed and speed.ratio]
    errors = [worst.tolerances for worst in map(sweep_figures.worst, results) if worst and worst.tolerances is not None]
    figures = [f"median {median(found):.2f}×"] if found else []
    figures += [f"error up to {amount(max(errors))}"] if errors else []
    waiting = sum(bool(result.pending) for result in results)
    heat = f"heat{sum(median(found) >= limit for limit in HEAT)}" if found else "heat0"
    tone = {CellState.PASSED: heat, CellState.PENDING: "open"}.get(worst_state, "bad")
    pending = f"○ {waiting} with pending" if waiting else ""
    return Square(tone, MARKS[worst_state], f"{passed} of {len(results)}", tuple(figures), pending)


def link(result: CellResult, home: Path) -> str:
    """The page of a cell, relative to the sweep; empty if there is none inside the folder of the sweep.

    What is in the folder of a cell that is not made yet is of another run.
    """
    folder = Path(result.folder)
    if (
        result.state is CellState.PENDING
        or not result.folder
        or folder.is_absolute()
        or ".." in folder.parts
        or "\0" in result.folder
    ):
        return ""
    try:
        exists = (home / folder / PAGE).is_file()
    except (OSError, ValueError):  # a name that no file can have
        return ""
    return f"./{quote((folder / PAGE).as_posix(), errors='surrogateescape')}" if exists else ""
