"""The source model of a run: the definition that checkpoint and probes settled, with the file of its weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deploytool.loading import weights_file
from deploytool.spec import Model


@dataclass(frozen=True)
class SourceModel:
    """A settled definition and its weights.

    A checkpoint may change preprocessing, and probes may change outputs and batch: later stages use this definition
    and never the one that the user asked for.
    """

    definition: Model
    weights: Path


def read(weights: Path) -> SourceModel:
    """The source model of a weights file; raises BadInput if the file names no model."""
    return SourceModel(weights_file.definition(weights), weights)
