"""The figures of a cell that pages, tables and budgets show: its speed-up, its size, and how close it is."""

from __future__ import annotations

from deploytool.host import side_files
from deploytool.results.artifact import Kind
from deploytool.results.measure import Inferiority
from deploytool.results.sweep import CellResult, Closeness, Drop, SpeedUp
from deploytool.spec import SpeedVerdict, Stage, Status

_BY_VERDICT = (Inferiority.NOT_WORSE, Inferiority.NOT_DECIDED, Inferiority.WORSE)  # the worst last
_NOT_MEASURED = "not measured"
_SHIPPED = (  # what leaves a run, the last that there is
    (Stage.EXPORT, Kind.GRAPH),
    (Stage.SIMPLIFY, Kind.GRAPH),
    (Stage.REWRITE, Kind.GRAPH),
    (Stage.FP16, Kind.GRAPH),
    (Stage.BUILD, Kind.ENGINE),
)


def fastest(result: CellResult) -> SpeedUp | None:
    """The fastest graph or engine that passes its checks and has a verdict on its speed; None if there is none."""
    failed = {close.stage for close in result.closeness if close.status is Status.MEASURED and not close.passed}
    timed = [
        speed
        for speed in result.speeds
        if speed.ratio is not None and speed.verdict is not SpeedVerdict.NO_VERDICT
        if speed.stage is not Stage.TORCHSCRIPT and speed.stage not in failed
    ]
    return max(timed, key=lambda speed: speed.ratio or 0.0, default=None)


def why_no_speed(result: CellResult) -> str:
    """Why a cell has no speed-up, in a few words."""
    reasons = [speed.reason for speed in result.speeds if speed.reason]
    return reasons[-1] if reasons else _NOT_MEASURED


def shipped(result: CellResult) -> str:
    """The file that ships, by its path in the folder of the cell; empty if none was made."""
    names = [f"{stage}/{kind.value}" for stage, kind in _SHIPPED]
    return next((name for name in reversed(names) if name in result.sizes), "")


def size(result: CellResult) -> int | None:
    """The bytes of the file that ships, with its side file; None if none was made."""
    name = shipped(result)
    return size_of(result, name) if name else None


def size_of(result: CellResult, name: str) -> int | None:
    """The bytes of a file of a cell, by its path, with its side file; None if there is none."""
    return result.sizes[name] + result.sizes.get(name + side_files.SUFFIX, 0) if name in result.sizes else None


def worst(result: CellResult) -> Closeness | None:
    """The file whose error is the largest, in multiples of its tolerance; None if none was measured."""
    measured = [close for close in result.closeness if close.tolerances is not None]
    return max(measured, key=lambda close: close.tolerances or 0.0, default=None)


def agreement(result: CellResult) -> float | None:
    """The smallest share of cases, over all files, whose best class is that of the source; None if unknown."""
    return min((close.top1 for close in result.closeness if close.top1 is not None), default=None)


def accuracy(result: CellResult) -> float | None:
    """The smallest share of correct labels over all files; None without labels."""
    return min((close.accuracy for close in result.closeness if close.accuracy is not None), default=None)


def largest_drop(result: CellResult) -> Drop | None:
    """The file with the worst verdict by the user's metric, of several the one of the largest drop; None without."""
    return max(result.drops, key=lambda drop: (_BY_VERDICT.index(drop.verdict), drop.value), default=None)
