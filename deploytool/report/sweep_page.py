"""Writes the page and the table of a sweep into its folder: sweep.html and sweep.csv."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

from deploytool.host import files
from deploytool.report import sweep_csv, sweep_map, sweep_pareto, sweep_rows, templating
from deploytool.report.sweep_map import MARKS
from deploytool.results.sweep import PAGE, CellState, Sweep
from deploytool.serde import Json

_STATES = (
    *((MARKS[state], state.value) for state in CellState if state is not CellState.PENDING),
    (MARKS[CellState.PENDING], "not made yet, or left for a device"),
)
_MAX_OPTION = 200  # characters of an option's value


def write_pages(sweep: Sweep, folder: Path) -> Path:
    """Writes sweep.html and sweep.csv into the folder of a sweep, each atomically; returns the path of the page."""
    files.publish(folder / sweep_csv.FILE, sweep_csv.text(sweep).encode())
    files.publish(folder / PAGE, render(sweep, folder).encode())
    return folder / PAGE


def render(sweep: Sweep, folder: Path) -> str:
    """The page of a sweep in `folder` as HTML text; its size does not grow with the number of cells beyond a bound."""
    maps, folded = sweep_map.maps(sweep, folder)
    failures, more_failures = sweep_rows.failures(sweep, folder)
    waiting, more_waiting = sweep_rows.waiting(sweep, folder)
    fronts, more_fronts = sweep_pareto.fronts(sweep)
    machines, more_machines = sweep_rows.machines(sweep)
    return (
        templating.environment()
        .get_template("sweep.html")
        .render(
            name=folder.resolve().name,
            sweep=sweep,
            tone=sweep_rows.tone(sweep),
            headline=sweep_rows.headline(sweep),
            about=sweep_rows.about(sweep),
            as_of=sweep_rows.as_of(sweep),
            unmade=sweep.count(CellState.PENDING) + sweep.count(CellState.LOST),
            tiles=sweep_rows.tiles(sweep),
            maps=maps,
            folded=folded,
            levels=_levels(),
            states=_STATES,
            totals=list(sweep_rows.totals(sweep)),
            failures=failures,
            more_failures=more_failures,
            waiting=waiting,
            more_waiting=more_waiting,
            fronts=fronts,
            more_fronts=more_fronts,
            shown_value=sweep_pareto.shown_value,
            timing=sweep_rows.timing(sweep),
            machines=machines,
            more_machines=more_machines,
            options=_options(sweep.options),
            csv=sweep_csv.FILE,
        )
    )


def _levels() -> list[tuple[int, str]]:
    """The tints of the heat map with the speed-ups that they stand for."""
    limits = [f"{limit:g}×" for limit in sweep_map.HEAT]
    spans = [f"{low} to {high}" for low, high in pairwise(limits)]
    return list(enumerate([f"below {limits[0]} or not measured", *spans, f"{limits[-1]} and more"]))


def _options(options: Mapping[str, Json]) -> list[tuple[str, str]]:
    """The shared options by name, with their values as text."""
    texts = {name: value if isinstance(value, str) else repr(value) for name, value in sorted(options.items())}
    return [
        (name.replace("_", "-"), text if len(text) <= _MAX_OPTION else f"{text[:_MAX_OPTION]} …")
        for name, text in texts.items()
    ]
