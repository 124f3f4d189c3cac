"""A machine made of numbers: clocks that only the work they time moves."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from deploytool.benchmark.interleave import Clocks, TimingSeries


class Machine:
    """Its clocks stand still but for the work it is given; `speed` stretches that, as a drift or a throttle would."""

    def __init__(self) -> None:
        self.wall = self.cpu = self.queued = 0.0
        self.speed = 1.0

    def clocks(self) -> Clocks:
        return Clocks(lambda: self.wall, lambda: self.cpu, lambda: self.queued, lambda: None)

    def work(self, seconds: float, *, threads: int = 1, waited: float = 0.0, name: str = "") -> Callable[[], str]:
        """Work for `seconds` on each of `threads`, which stand in a queue for `waited` seconds meanwhile."""

        def call() -> str:
            self.wall += seconds * self.speed + waited
            self.cpu += seconds * self.speed * threads
            self.queued += waited
            return name

        return call


def series(wall_ms: np.ndarray | list[float], cpu: float = 1.0, queued: float = 0.0) -> TimingSeries:
    """A series of that wall time, with shares of it as processor time and time in a queue."""
    wall = np.asarray(wall_ms, np.float64)
    return TimingSeries(wall, wall * cpu, wall * queued)
