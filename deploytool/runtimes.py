"""What releases of ONNX Runtime and TensorRT read: the newest IR version and the newest opset of ONNX of each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

ORT, TRT, OPENVINO = "ort", "trt", "openvino"
TITLES: Mapping[str, str] = {ORT: "ONNX Runtime", TRT: "TensorRT"}  # of those whose releases are in the table below
_VERSION = re.compile(r"(\d{1,4})\.(\d{1,4})(?:\.\w+)*(?:\+[\w.]+)?")


@dataclass(frozen=True)
class Newest:
    """The newest IR version and the newest opset that a release reads."""

    ir_version: int
    opset: int


_NEWEST: Mapping[str, Mapping[tuple[int, int], Newest]] = {
    # Measured by tests/floor/measure.py: a graph of one Relu is loaded with each IR version and each opset.
    # A release that is not listed reads what the release before it does.
    ORT: {
        (1, 15): Newest(9, 19),
        (1, 17): Newest(9, 20),
        (1, 18): Newest(10, 21),
        (1, 21): Newest(10, 22),
        (1, 23): Newest(11, 23),
        (1, 24): Newest(13, 25),
        (1, 25): Newest(13, 26),
        (1, 32): Newest(14, 28),
    },
    # From the documentation of onnx-tensorrt (10.0, 10.1, 10.15) and of TensorRT (11), and the ONNX release that each
    # is built with; not run. Parsers of TensorRT-RTX 1.7 check neither, and refuse operators by name.
    TRT: {(10, 0): Newest(10, 20), (10, 15): Newest(12, 24), (11, 0): Newest(13, 25)},
}


def release(version: str) -> tuple[int, int] | None:
    """Major and minor number of a version such as 1.20 or 1.20.1; None for other text."""
    match = _VERSION.fullmatch(version)
    return (int(match[1]), int(match[2])) if match else None


def oldest_known(runtime: str) -> str:
    """The oldest release in the table."""
    return _text(min(_NEWEST[runtime]))


def newest(runtime: str, version: str) -> Newest | None:
    """What a release reads; None for one that is older than the table, and for text that is no version."""
    wanted = release(version)
    known = [listed for listed in _NEWEST[runtime] if wanted and listed <= wanted]
    return _NEWEST[runtime][max(known)] if known else None


def oldest_reader(runtime: str, ir_version: int, opset: int) -> str | None:
    """The oldest release that reads a graph; None if no release in the table does."""
    readers = [listed for listed, limit in _NEWEST[runtime].items() if _reads(limit, ir_version, opset)]
    return _text(min(readers)) if readers else None


def refusal(runtime: str, version: str, ir_version: int, opset: int) -> str | None:
    """Why a release does not read a graph, with the oldest one that does; None if it does, or if that is unknown."""
    limit = newest(runtime, version)
    if limit is None or _reads(limit, ir_version, opset):
        return None
    reader = oldest_reader(runtime, ir_version, opset)
    needed = f", which {reader} and later read" if reader else ""
    what, most, has = (
        ("opsets", limit.opset, f"opset {opset}")
        if opset > limit.opset
        else ("IR versions", limit.ir_version, f"IR version {ir_version}")
    )
    return f"{TITLES[runtime]} {version} reads {what} up to {most}, and the graph has {has}{needed}"


def _reads(limit: Newest, ir_version: int, opset: int) -> bool:
    return ir_version <= limit.ir_version and opset <= limit.opset


def _text(known: tuple[int, int]) -> str:
    return f"{known[0]}.{known[1]}"
