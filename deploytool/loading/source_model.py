"""The source model of a run: the model definition after loading and probing, and its weights file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deploytool.loading import weights_file
from deploytool.spec import Model


@dataclass(frozen=True)
class SourceModel:
    """The final model definition and its weights file.

    A checkpoint may change the preprocessing, and the probe may change outputs and batch size: later stages use this
    definition and never the one of the job.
    """

    definition: Model
    weights: Path


def read(weights: Path) -> SourceModel:
    """Reads the source model of a weights file; raises BadInput if the file contains no definition."""
    return SourceModel(weights_file.definition(weights), weights)
