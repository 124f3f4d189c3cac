"""Opens torch files without making what is no tensor: objects of other classes become empty stand-ins.

torch's own reader (`weights_only`) calls nothing but what it is given. A trainer's arguments, paths and NumPy scalars
are not wanted here, so the reader is given a class that keeps nothing of them, and no code of the file or of another
library runs.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import BinaryIO

import torch


class StandIn:
    """An object that was left out; it takes whatever its maker would have taken, and keeps none of it."""

    def __new__(cls, *_: object) -> StandIn:
        """Takes any arguments."""
        return object.__new__(cls)

    def __setstate__(self, _: object) -> None:
        pass


def load(file: BinaryIO, set_aside: Sequence[str]) -> object:
    """What a torch file holds, with a stand-in for every object of the classes `set_aside`, by full name."""
    named = [(type(name.rpartition(".")[2], (StandIn,), {}), name) for name in set_aside]
    with torch.serialization.safe_globals(list(named)), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of storages that are deprecated, and of old protocols
        return torch.load(file, map_location="cpu", weights_only=True)
