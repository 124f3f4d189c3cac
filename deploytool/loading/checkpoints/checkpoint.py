"""Loads checkpoints: reads them safely, detects their publisher, and adapts the model definition to the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from deploytool.loading.checkpoints import matching, reader, state_dict_choice
from deploytool.spec import Model


@dataclass(frozen=True)
class LoadedCheckpoint:
    """Weights with exactly the keys and shapes of the definition's state dict.

    layout: the publisher whose naming the file uses. unwrapped: one line with the location of the state dict in the
    file and the removed prefix; empty for a bare state dict.
    """

    model: Model
    state: Mapping[str, torch.Tensor]
    layout: str
    unwrapped: str = ""


def load(path: Path, model: Model, *, trust_code: bool = False) -> LoadedCheckpoint:
    """Loads the weights in `path` for `model`, with the options, outputs and preprocessing they were trained with.

    If a file contains several state dicts, averaged weights (EMA, SWA) are preferred.
    trust_code: also load files that contain code (TorchScript, .pt2, pickled modules), which runs it.
    Raises BadInput with the first key that does not fit.
    """
    contents = reader.read(path, trust_code=trust_code)
    match = state_dict_choice.find(contents, model, path)
    state = matching.to_state_dict(match.tensors, match.expected, match.names)
    return LoadedCheckpoint(match.model, state, match.layout, match.source.describe())
