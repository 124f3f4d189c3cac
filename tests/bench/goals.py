"""Speed goals of the peers' table: how many times faster than a rival the shipped graph should be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from deploytool.benchmark.ratio import Ratio
from deploytool.spec import SpeedVerdict, state_text

ORT, OPENVINO = "ORT", "OpenVINO"
BOTH = "the better of both"  # of our graphs in both runtimes, against the better of both on the plain graph


@dataclass(frozen=True)
class Goal:
    """The least ratio to a rival; with `beyond_noise`, reached unless the rival is significantly faster."""

    rival: str
    least: float
    beyond_noise: bool = False


def goals(model: str, batch: int, threads: int) -> Iterator[Goal]:
    """The goals of one model at one batch."""
    if model.startswith("mixnet"):
        yield Goal(ORT, 1.7 if batch == 1 else 2.0)
        yield Goal(OPENVINO, 1.0, beyond_noise=True)
    elif model == "shufflenet_g3" and (batch, threads) == (8, 1):
        yield Goal(ORT, 1.2)
    elif model.startswith("shufflenet"):
        yield Goal(ORT, 0.98)
    else:
        yield Goal(ORT, 0.98)
        yield Goal(OPENVINO, 0.98)
    yield Goal(BOTH, 0.98)


def judge(goal: Goal, ratio: Ratio, uneven: str | None) -> str:
    """A line with the goal, the ratio and `reached` or `MISSED`, or why there is no verdict."""
    aim = f"not behind {goal.rival}" if goal.beyond_noise else f"≥ {goal.least:g}× {goal.rival}"
    line = f"{aim}: {ratio.value:.2f}× ({ratio.low:.2f}–{ratio.high:.2f})"
    if uneven:
        return f"{line}, {state_text(SpeedVerdict.NO_VERDICT, uneven)}"
    is_reached = ratio.high >= goal.least if goal.beyond_noise else ratio.value >= goal.least
    is_unsure = not goal.beyond_noise and ratio.low < goal.least <= ratio.high
    return f"{line}, {'reached' if is_reached else 'MISSED'}{' (within the spread)' if is_unsure else ''}"


def report_lines(model: str, batch: int, threads: int, ratios: Mapping[str, Ratio], uneven: str | None) -> list[str]:
    """A line for every goal whose rival was measured."""
    return [
        f"{model} batch {batch}: {judge(goal, ratios[goal.rival], uneven)}"
        for goal in goals(model, batch, threads)
        if goal.rival in ratios
    ]
