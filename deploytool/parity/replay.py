"""Replays inputs through a session, in batches that the session accepts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from deploytool.data.golden import Arrays
from deploytool.errors import StageFailed
from deploytool.spec import Range

SMALL_BATCHES = Range(largest=4)  # the intermediate values of four cases still fit into a cache
_ANY_BATCH = Range()


def at_once(cases: int, batch: Range) -> int:
    """The batch size in which that many cases are run."""
    return max(batch.smallest, min(batch.largest, cases))


def replay(session: Callable[..., Arrays], inputs: Arrays, batch: Range = _ANY_BATCH) -> Arrays:
    """The session's answers to all cases of `inputs`, in their order.

    A last batch below the smallest size is filled up with its own cases, whose extra answers are dropped. Raises
    StageFailed if an output has not one answer per case.
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
                problem = f"{name} has {len(array)} results for {len(filled)} cases"
                raise StageFailed(problem, "make the batch size dynamic")
        parts.append({name: array[: len(wanted)] for name, array in answer.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
