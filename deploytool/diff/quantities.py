"""The table of figures that can be compared and budgeted: meaning, units, and the direction that is worse."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

TIMES: Mapping[str, float] = {"us": 1e-3, "ms": 1.0, "s": 1e3}  # in milliseconds
SIZES: Mapping[str, float] = {"B": 1.0, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9}  # in bytes
SECONDS: Mapping[str, float] = {"ms": 1e-3, "s": 1.0, "min": 60.0}  # in seconds
NONE: Mapping[str, float] = {"": 1.0}


@dataclass(frozen=True)
class Quantity:
    """One figure; `units` maps each unit that may be written to the stored unit.

    A `share` is between 0 and 1 and changes by percentage points. A `machine_dependent` figure is not comparable
    between machines.
    """

    description: str
    units: Mapping[str, float]
    more_is_worse: bool = True
    share: bool = False
    machine_dependent: bool = False


_SHARE: Mapping[str, float] = {"": 1.0, "%": 0.01}
_POINTS: Mapping[str, float] = {"": 1.0, "pt": 0.01}  # of a metric from 0 to 1

QUANTITIES: Mapping[str, Quantity] = {
    "passed": Quantity("whether a cell of a sweep passed: 1 or 0", _SHARE, more_is_worse=False, share=True),
    "tolerances": Quantity("largest error of a cell of a sweep, in multiples of its tolerance", NONE),
    "parity": Quantity("largest error against FP64, relative to the largest output", NONE),
    "noise": Quantity("largest error against FP64, in multiples of the model's own noise", NONE),
    "tolerance": Quantity("largest error that passes", NONE),
    "top1": Quantity("share of images with the source's class", _SHARE, more_is_worse=False, share=True),
    "top5": Quantity("share of images with it among the five best", _SHARE, more_is_worse=False, share=True),
    "equal": Quantity(
        "share of equal elements, of those compared for equality", _SHARE, more_is_worse=False, share=True
    ),
    "accuracy": Quantity("share of correct labels", _SHARE, more_is_worse=False, share=True),
    "metric": Quantity("value of the user's metric", _POINTS, more_is_worse=False),
    "drop": Quantity("by how much it is below the source's", _POINTS),
    "fp16_largest": Quantity("largest value in the FP16 graph; the FP16 maximum is 65504", NONE),
    "p50": Quantity("median latency of one batch", TIMES, machine_dependent=True),
    "p90": Quantity("90th percentile of the latency of one batch", TIMES, machine_dependent=True),
    "p99": Quantity("99th percentile of the latency of one batch", TIMES, machine_dependent=True),
    "speedup": Quantity(
        "latency of the original over artifact latency", NONE, more_is_worse=False, machine_dependent=True
    ),
    "size": Quantity("file size in bytes", SIZES),
    "layers": Quantity("layers of an engine", NONE),
    "fp16_layers": Quantity("share of an engine's layers with FP16 output", _SHARE, more_is_worse=False, share=True),
    "build_time": Quantity("build time of an engine in seconds", SECONDS, machine_dependent=True),
    "caught": Quantity("share of planted faults that a check caught", _SHARE, more_is_worse=False, share=True),
    "smallest_caught": Quantity("smallest error of a caught fault", NONE),
}
