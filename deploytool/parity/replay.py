"""Replays golden inputs through a session, in batches the session can take."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from deploytool.data.golden import Arrays
from deploytool.errors import StageFailed
from deploytool.spec import Range

FEW = Range(largest=4)  # cases at once: what they leave between the layers still fits into a cache
_USUAL = Range()


def at_once(cases: int, batch: Range) -> int:
    """How many of so many cases are run in one batch."""
    return max(batch.smallest, min(batch.largest, cases))


def replay(session: Callable[..., Arrays], inputs: Arrays, batch: Range = _USUAL) -> Arrays:
    """The session's answers to all cases of `inputs`, in their order.

    A last batch below the smallest allowed is filled up with the first cases, whose extra answers are dropped.
    """
    cases = len(next(iter(inputs.values())))
    size = at_once(cases, batch)
    parts = []
    for start in range(0, cases, size):
        wanted = np.arange(start, min(start + size, cases))
        filled = np.resize(wanted, max(len(wanted), batch.smallest))
        answer = session(**{name: np.ascontiguousarray(array[filled]) for name, array in inputs.items()})
        for name, array in answer.items():
            if len(array) != len(filled):
                raise StageFailed(f"{name} has {len(array)} answers to {len(filled)} cases", "leave the batch free")
        parts.append({name: array[: len(wanted)] for name, array in answer.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
