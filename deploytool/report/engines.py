"""Rows for the engines of a run: targets, and the number of layers by type."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from deploytool.results import verdict
from deploytool.results.report import Engine, Report


@dataclass(frozen=True)
class EngineRow:
    """An engine, its targets, and its layers by output type, the most frequent first; `summary` is the same as text."""

    engine: Engine
    targets: tuple[str, ...]
    layers: tuple[tuple[str, int], ...]
    summary: str


def engine_rows(report: Report) -> Iterator[EngineRow]:
    """One row for every engine of a run."""
    for engine in report.engines:
        layers = tuple(sorted(engine.layers.items(), key=lambda item: (-item[1], item[0])))
        total = sum(count for _, count in layers) or 1
        parts = [f"{count} {name.lower()} ({count / total:.0%})" for name, count in layers]
        yield EngineRow(engine, verdict.targets_served(engine, report), layers, ", ".join(parts))
