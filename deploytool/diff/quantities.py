"""The figures that can be compared and budgeted: what each is, in which unit, and which way is worse."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

TIMES: Mapping[str, float] = {"us": 1e-3, "ms": 1.0, "s": 1e3}  # in milliseconds
SIZES: Mapping[str, float] = {"B": 1.0, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9}  # in bytes
SECONDS: Mapping[str, float] = {"ms": 1e-3, "s": 1.0, "min": 60.0}  # in seconds
NONE: Mapping[str, float] = {"": 1.0}


@dataclass(frozen=True)
class Quantity:
    """One figure; `units` says what one of each of its units is in the unit that it is kept in.

    A `share` lies between 0 and 1 and changes by percentage points; one `of_machine` cannot be held against another's.
    """

    what: str
    units: Mapping[str, float]
    more_is_worse: bool = True
    share: bool = False
    of_machine: bool = False


_SHARE: Mapping[str, float] = {"": 1.0, "%": 0.01}

QUANTITIES: Mapping[str, Quantity] = {
    "parity": Quantity("largest error against FP64, relative to the largest output", NONE),
    "noise": Quantity("the same in multiples of the model's own noise", NONE),
    "tolerated": Quantity("the largest error that passes", NONE),
    "top1": Quantity("share of images with the source's class", _SHARE, more_is_worse=False, share=True),
    "top5": Quantity("share with it among the five best", _SHARE, more_is_worse=False, share=True),
    "equal": Quantity("share of elements that must be equal and are", _SHARE, more_is_worse=False, share=True),
    "accuracy": Quantity("share of labels that are right", _SHARE, more_is_worse=False, share=True),
    "reach": Quantity("largest value in the FP16 graph; FP16 ends at 65504", NONE),
    "p50": Quantity("median latency of one batch", TIMES, of_machine=True),
    "p90": Quantity("latency that nine of ten batches keep", TIMES, of_machine=True),
    "p99": Quantity("latency that 99 of 100 batches keep", TIMES, of_machine=True),
    "speedup": Quantity("eager's latency over it", NONE, more_is_worse=False, of_machine=True),
    "size": Quantity("bytes of a file", SIZES),
    "layers": Quantity("layers of an engine's network", NONE),
    "half": Quantity("share of an engine's layers that give FP16", _SHARE, more_is_worse=False, share=True),
    "build": Quantity("seconds that building an engine took", SECONDS, of_machine=True),
    "caught": Quantity("share of planted faults that a check caught", _SHARE, more_is_worse=False, share=True),
    "smallest": Quantity("smallest error of a fault that a check caught", NONE),
}
