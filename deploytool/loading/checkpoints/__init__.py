"""Loads weights that others have trained: reads them safely, tells whose they are, and settles how they want to run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from deploytool.loading.checkpoints import matching, reader, state_dict_choice
from deploytool.spec import Model


@dataclass(frozen=True)
class LoadedCheckpoint:
    """Weights for a definition: exactly the keys and shapes of its state dict, and whose layout they came in.

    unwrapped: where in the file they were and which prefix was taken off, in one line; empty if neither is so.
    """

    model: Model
    state: Mapping[str, torch.Tensor]
    layout: str
    unwrapped: str = ""


def load(path: Path, model: Model, *, trust_code: bool = False) -> LoadedCheckpoint:
    """The weights in `path` for `model`, with the options, outputs and preprocessing that belong to them.

    Of several state dicts in one file, averaged ones (EMA, SWA) come first.
    trust_code: also open files that are programs (TorchScript, .pt2, pickled modules), which runs them.
    Raises BadInput, and names the key, unless every tensor of the file fits.
    """
    contents = reader.read(path, trust_code=trust_code)
    found = state_dict_choice.find(contents, model, path)
    state = matching.to_state_dict(found.tensors, found.ours, found.names)
    return LoadedCheckpoint(found.model, state, found.layout, found.source.said())
