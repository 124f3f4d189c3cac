"""What there is to say of each engine: whom it serves, and in which types its layers compute."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from deploytool.results import verdict
from deploytool.results.report import Engine, Report


@dataclass(frozen=True)
class ServedTarget:
    """An engine, the targets it is for, and its layers by type, the most first; `census` says the same in words."""

    engine: Engine
    targets: tuple[str, ...]
    layers: tuple[tuple[str, int], ...]
    census: str


def served(report: Report) -> Iterator[ServedTarget]:
    """Every engine of a run."""
    for engine in report.engines:
        layers = tuple(sorted(engine.layers.items(), key=lambda item: (-item[1], item[0])))
        every = sum(count for _, count in layers) or 1
        each = [f"{count} {name.lower()} ({count / every:.0%})" for name, count in layers]
        yield ServedTarget(engine, verdict.targets_served(engine, report), layers, ", ".join(each))
