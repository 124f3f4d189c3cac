"""Loads torch files with empty stand-ins for objects of other classes, so that no code of the file runs.

torch's `weights_only` unpickler calls only allowed globals. Trainer arguments, paths and NumPy scalars are not needed,
so their classes are mapped to a stand-in that discards its arguments.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import BinaryIO

import torch


class StandIn:
    """Replaces an object that is not a tensor; accepts and discards any arguments."""

    def __new__(cls, *_: object) -> StandIn:
        """Accepts any arguments."""
        return object.__new__(cls)

    def __setstate__(self, _: object) -> None:
        pass


def load(file: BinaryIO, replaced_classes: Sequence[str]) -> object:
    """Loads a torch file with stand-ins for all objects of `replaced_classes` (full names)."""
    stand_ins = [(type(name.rpartition(".")[2], (StandIn,), {}), name) for name in replaced_classes]
    with torch.serialization.safe_globals(list(stand_ins)), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about deprecated storages and old protocols
        return torch.load(file, map_location="cpu", weights_only=True)
