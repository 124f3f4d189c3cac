"""The corners of a model's dynamic sizes as the validate stage records them: their file and their tolerances."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from deploytool.results.report import Limits

NOTE = "corners"  # note of a report: the recorded corners


@dataclass(frozen=True)
class RecordedAnswers:
    """What a graph in INT8 or FP8 answers at a corner as quantised: the file beside the report, and its tolerances."""

    file: str
    limits: Limits


@dataclass(frozen=True)
class RecordedCorner:
    """One combination of sizes: each dynamic size but the batch by name, and the file of its cases beside the report.

    `limits` are the tolerances by precision, from the noise of the source model at these sizes. `int8` has the answers
    of each graph in INT8 or FP8, by its `key`.
    """

    sizes: Mapping[str, int]
    file: str
    limits: Mapping[str, Limits]
    int8: Mapping[str, RecordedAnswers] = field(default_factory=dict)


def key(graph: Path) -> str:
    """How a graph of a run is recorded: by its stage and its file."""
    return f"{graph.parent.name}/{graph.name}"


def label(sizes: Mapping[str, int]) -> str:
    """How a combination of sizes is called: `H 64, W 32`."""
    return ", ".join(f"{name} {size}" for name, size in sizes.items())
