"""What the peers' table is held against: for each family, how many times faster than a rival the shipped graph is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from deploytool.benchmark.ratio import Ratio
from deploytool.spec import SpeedVerdict, spoken

PLAIN, OPENVINO = "ORT", "OpenVINO"


@dataclass(frozen=True)
class Goal:
    """A ratio that was hoped for; `beyond_noise` asks only that the rival is not surely faster."""

    rival: str
    least: float
    beyond_noise: bool = False


def goals(model: str, batch: int, threads: int) -> Iterator[Goal]:
    """The goals of one model at one batch."""
    if model.startswith("mixnet"):
        yield Goal(PLAIN, 1.7 if batch == 1 else 2.0)
        yield Goal(OPENVINO, 1.0, beyond_noise=True)
    elif model == "shufflenet_g3" and (batch, threads) == (8, 1):
        yield Goal(PLAIN, 1.2)
    elif model.startswith("shufflenet"):
        yield Goal(PLAIN, 0.98)
    else:
        yield Goal(PLAIN, 0.98)
        yield Goal(OPENVINO, 0.98)


def judged(goal: Goal, found: Ratio, uneven: str | None) -> str:
    """The goal with `reached` or `MISSED`, or with no verdict and what stands against one."""
    what = f"not behind {goal.rival}" if goal.beyond_noise else f"≥ {goal.least:g}× {goal.rival}"
    seen = f"{what}: {found.value:.2f}× ({found.low:.2f}–{found.high:.2f})"
    if uneven:
        return f"{seen}, {spoken(SpeedVerdict.NO_VERDICT, uneven)}"
    held = found.high >= goal.least if goal.beyond_noise else found.value >= goal.least
    unsure = not goal.beyond_noise and found.low < goal.least <= found.high
    return f"{seen}, {'reached' if held else 'MISSED'}{' (within the spread)' if unsure else ''}"


def told(model: str, batch: int, threads: int, ratios: Mapping[str, Ratio], uneven: str | None) -> list[str]:
    """A line for every goal whose rival was there."""
    return [
        f"{model} batch {batch}: {judged(goal, ratios[goal.rival], uneven)}"
        for goal in goals(model, batch, threads)
        if goal.rival in ratios
    ]
