"""The FP32 graphs that INT8 graphs are made from, with the values of their tensors on calibration data, in files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from onnx import ModelProto

from deploytool.precision.int8 import calibration, equalisation, quantize
from deploytool.precision.int8.activations import Batches
from deploytool.precision.int8.calibration import Table
from deploytool.precision.int8.placement.fused import Fuses
from deploytool.results.int8_forms import Form
from deploytool.rewrites.graph import storage

_EQUALISED = "equalised"


@dataclass(frozen=True)
class CalibratedGraph:
    """A graph with the distribution of its tensors on calibration data; `equalised` says that its channels are."""

    graph: ModelProto
    table: Table
    equalised: bool = False


def write(graph: Path, table: Path, batches: Batches) -> tuple[str, ...]:
    """Writes the table of a graph, and its equalised form with a table beside it; returns the layers before which.

    The batches, which can be read more than once, are the calibration data. Without such layers there is no such form.
    """
    plain = storage.load(graph)
    calibration.collect(plain, _tensors(plain), batches).write(table)
    maxima = equalisation.channel_maxima(plain, equalisation.pairs(plain), batches)
    equalised, layers = equalisation.equalise(plain, maxima)
    if layers:
        storage.save(equalised, _beside(table, ".onnx"))
        calibration.collect(equalised, _tensors(equalised), batches).write(_beside(table, ".npz"))
    return layers


def read(graph: Path, table: Path) -> list[CalibratedGraph]:
    """The graph as it is and, where `write` made one, its equalised form."""
    found = [CalibratedGraph(storage.load(graph), calibration.read(table))]
    if (equalised := _beside(table, ".onnx")).exists():
        found.append(CalibratedGraph(storage.load(equalised), calibration.read(_beside(table, ".npz")), equalised=True))
    return found


def _beside(table: Path, suffix: str) -> Path:
    return table.with_name(f"{table.stem}_{_EQUALISED}{suffix}")


def _tensors(graph: ModelProto) -> list[str]:
    """The tensors whose values any form of an INT8 graph needs."""
    placed = (quantize.activations(graph, form, fuses) for form in Form for fuses in Fuses)
    return list(dict.fromkeys(name for names in placed for name in names))
