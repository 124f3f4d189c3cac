"""The required speed-up: which rows of the speed table it is judged by, and whether they reach it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from deploytool.results import runners
from deploytool.results.report import Engine, Gate, Speed
from deploytool.spec import GateOutcome, Precision, SpeedVerdict, Stage, state_text

NARROW = (Precision.BF16, Precision.INT8, Precision.FP8)  # those that are made on request only
SEVERITY = (GateOutcome.REACHED, GateOutcome.OPEN, GateOutcome.MISSED)


def judge(
    min_speedup: float | None, speeds: Sequence[Speed], engines: Sequence[Engine], asked: Collection[Precision]
) -> Gate | None:
    """Compares the required speed-up with that of the fastest row of each precision that was `asked` for.

    A precision of `NARROW` counts where one of its rows was timed. FP16 is what else ships: the engine if there is one,
    else the fastest graph in FP32 or FP16; it counts if it was asked for, and where nothing else was timed. A row
    reaches the speed-up if the lower bound of its 95 % interval does; it is open if the machine was too uneven or
    nothing was timed; otherwise it is missed. The worst row decides.
    """
    if min_speedup is None:
        return None
    rows = _by_precision(speeds, {engine.file: engine.precision for engine in engines})
    narrow = [rows[each] for each in NARROW if each in asked and any(row.low is not None for row in rows[each])]
    groups = [*narrow, *([rows[Precision.FP16]] if Precision.FP16 in asked or not narrow else [])]
    gates = sorted((_judge(min_speedup, group) for group in groups), key=lambda gate: -SEVERITY.index(gate.outcome))
    return replace(gates[0], judged=tuple(row for gate in gates for row in gate.judged))


def line(min_speedup: float, outcome: GateOutcome, reason: str, judged: Sequence[str]) -> str:
    """The outcome in one line, with the rows that were judged."""
    why = f": {reason}" if reason else ""
    return f"--min-speedup {min_speedup:g}: {outcome}, judged by {' and '.join(judged)}{why}"


def _by_precision(speeds: Sequence[Speed], engines: Mapping[str, Precision]) -> dict[Precision, list[Speed]]:
    """The rows of each precision of `NARROW`, and as those in FP16 the engines if there are any, else all graphs."""
    rows: dict[Precision, list[Speed]] = {each: [] for each in (*NARROW, Precision.FP16)}
    graphs: list[Speed] = []
    for speed in speeds:
        built = speed.stage is Stage.BUILD
        precision = engines.get(speed.file, Precision.FP16) if built else speed.stage.precision
        if precision in NARROW or built:
            rows[precision].append(speed)
        elif speed.stage is not Stage.TORCHSCRIPT:  # a bundle has none
            graphs.append(speed)
    rows[Precision.FP16] = rows[Precision.FP16] or graphs
    return rows


def _judge(min_speedup: float, rows: Sequence[Speed]) -> Gate:
    """The gate for the fastest of these rows, or for the first if none was timed."""
    best = max(rows, key=lambda row: -1.0 if row.low is None else row.low)
    judged = (runners.artifact(best.stage, best.file, best.runner),)
    if best.low is None:
        return Gate(min_speedup, best.stage, GateOutcome.OPEN, state_text(best.status, best.reason), judged)
    if best.low < min_speedup:
        return Gate(min_speedup, best.stage, GateOutcome.MISSED, judged=judged)
    if best.verdict is SpeedVerdict.NO_VERDICT:
        return Gate(min_speedup, best.stage, GateOutcome.OPEN, state_text(best.verdict, best.reason), judged)
    return Gate(min_speedup, best.stage, GateOutcome.REACHED, judged=judged)
