"""Limits the turns of the loops of a graph: each is computed node by node, so that a long loop would take hours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from deploytool.errors import StageFailed
from deploytool.loading.graph.op import Op

MOST = 50_000  # of all loops in one run of the graph; a turn of one node takes about 0.1 ms

_left: ContextVar[list[int] | None] = ContextVar("left", default=None)


@contextmanager
def counted() -> Iterator[None]:
    """Starts to count the turns, for one run of the graph."""
    token = _left.set([MOST])
    try:
        yield
    finally:
        _left.reset(token)


def take(op: Op) -> None:
    """Counts a turn of a loop; raises StageFailed, which names the node, after more than `MOST` turns in one run."""
    left = _left.get()
    if left is None:
        return
    left[0] -= 1
    if left[0] < 0:
        problem = f"the loops of the graph make more than {MOST} turns in one run, in the node {op.label}"
        raise StageFailed(
            problem, "export the model with tensor operations in place of that loop, or for shorter inputs"
        )
