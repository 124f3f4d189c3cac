"""A simulated machine, whose clocks advance only by simulated work."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from deploytool.benchmark.interleave import Clocks, TimingSeries


class Machine:
    """Clocks that `work` advances; `speed` is a factor on all durations, to simulate drift or throttling."""

    def __init__(self) -> None:
        self.wall = self.cpu = self.queued = 0.0
        self.speed = 1.0

    def clocks(self) -> Clocks:
        return Clocks(lambda: self.wall, lambda: self.cpu, lambda: self.queued, lambda: None)

    def work(self, seconds: float, *, threads: int = 1, waited: float = 0.0, name: str = "") -> Callable[[], str]:
        """A call that works for `seconds` on each of `threads` and waits for a processor for `waited` seconds."""

        def call() -> str:
            self.wall += seconds * self.speed + waited
            self.cpu += seconds * self.speed * threads
            self.queued += waited
            return name

        return call


def series(wall_ms: np.ndarray | list[float], cpu: float = 1.0, queued: float = 0.0) -> TimingSeries:
    """A series with this wall time, and shares of it as processor time and time in the run queue."""
    wall = np.asarray(wall_ms, np.float64)
    return TimingSeries(wall, wall * cpu, wall * queued)
