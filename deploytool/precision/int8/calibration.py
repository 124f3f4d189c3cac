"""Collects the distribution of every activation on calibration data, and chooses ranges for INT8 from it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from onnx import ModelProto

from deploytool.backends.session import Array
from deploytool.data.case_digests import case_digests
from deploytool.errors import BadInput, StageFailed
from deploytool.host import disk
from deploytool.precision.int8 import activations, thresholds
from deploytool.precision.int8.activations import Batches
from deploytool.precision.int8.histogram import BINS, Histogram, Spans
from deploytool.precision.int8.value_range import ValueRange
from deploytool.rewrites.graph import weights
from deploytool.spec import StrEnum

_VERSION = 1  # of the file


class Method(StrEnum):
    """How the range of a tensor follows from its values."""

    MIN_MAX = "min-max"
    PERCENTILE = "percentile"
    ENTROPY = "entropy"
    MSE = "mse"


class _Choice(Protocol):
    def __call__(self, spans: Spans, *, symmetric: bool) -> ValueRange: ...


_CHOICES: Mapping[Method, _Choice] = {
    Method.MIN_MAX: thresholds.min_max,
    Method.PERCENTILE: thresholds.percentile,
    Method.ENTROPY: thresholds.entropy,
    Method.MSE: thresholds.mse,
}


@dataclass(frozen=True)
class Table:
    """The distribution of tensors on calibration data, by name.

    `graph` is the fingerprint of the graph that computed them, `cases` the digests of the calibration cases.
    """

    graph: str
    cases: tuple[str, ...]
    histograms: Mapping[str, Histogram]

    def ranges(self, method: Method, *, symmetric: bool) -> dict[str, ValueRange]:
        """The range of every tensor; zero is in each of them, and a symmetric one has it in the middle."""
        choose = _CHOICES[method]
        return {name: choose(each.spans(), symmetric=symmetric) for name, each in self.histograms.items()}

    def write(self, path: Path) -> None:
        """Writes the table as .npz; equal tables give equal bytes."""
        each = self.histograms.values()
        filled = [np.flatnonzero(histogram.counts) for histogram in each]
        counts = [histogram.counts.ravel()[bins] for histogram, bins in zip(each, filled, strict=True)]
        with disk.writing(path):
            np.savez_compressed(
                path,
                allow_pickle=False,
                version=np.array(_VERSION),
                graph=np.array(self.graph),
                cases=np.array(self.cases),
                tensors=np.array([name.encode() for name in self.histograms]),
                extremes=np.array([(histogram.low, histogram.high) for histogram in each]).reshape(-1, 2),
                tops=np.array([histogram.top for histogram in each], np.int64),
                sizes=np.array([len(bins) for bins in filled], np.int64),
                bins=np.concatenate([*filled, np.empty(0, np.int64)]).astype(np.uint32),
                counts=np.concatenate([*counts, np.empty(0, np.int64)]),
            )


def read(path: Path) -> Table:
    """The table in a file that `Table.write` wrote; raises BadInput for any other file."""
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            if int(file["version"]) != _VERSION:
                raise ValueError(f"it has version {int(file['version'])}, and not {_VERSION}")
            cases = tuple(str(digest) for digest in file["cases"])
            return Table(str(file["graph"]), cases, dict(_histograms(file)))
    except Exception as error:  # numpy and zipfile raise many types, depending on the damage
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise BadInput(f"{path} is not a table of ranges: {reason}", "calibrate again to make one") from error


def _histograms(file: Mapping[str, Array]) -> Iterator[tuple[str, Histogram]]:
    """The tensors of an open table; raises ValueError for bins that do not exist."""
    ends = np.cumsum(file["sizes"])
    all_bins, all_counts = np.split(file["bins"], ends[:-1]), np.split(file["counts"], ends[:-1])
    rows = zip(file["tensors"], file["extremes"], file["tops"], all_bins, all_counts, strict=True)
    for name, (low, high), top, bins, counts in rows:
        dense = np.zeros(2 * BINS, np.int64)
        dense[bins] = counts
        yield name.decode(), Histogram(float(low), float(high), int(top), dense.reshape(2, BINS))


def collect(graph: ModelProto | Path, tensors: Sequence[str], batches: Batches) -> Table:
    """The distribution of FP32 tensors of a graph, inputs included, over all cases of the batches.

    The data is read once and one case is computed at a time; each tensor takes 200 kB, however many cases there are.
    Raises BadInput for an unknown tensor and for batches without cases, StageFailed for values that are not finite.
    """
    loaded = activations.load(graph)
    histograms = {name: Histogram() for name in dict.fromkeys(tensors)}
    cases: list[str] = []
    for values in activations.run(loaded, list(histograms), _noted(batches, cases.extend)):
        for name, histogram in histograms.items():
            if not histogram.add(values[name]):
                problem = f"{name} is NaN or infinite on the calibration data"
                raise StageFailed(problem, "check the calibration data, and the FP32 graph on it")
    if not cases:
        raise BadInput("there are no calibration cases", "give pictures or cases of the data that the model is for")
    return Table(fingerprint(loaded), tuple(cases), histograms)


def fingerprint(graph: ModelProto) -> str:
    """The SHA-256 of what a graph computes: its nodes and weights, without shapes and descriptions."""
    digest = hashlib.sha256()
    for value in (*graph.graph.input, *graph.graph.output):
        digest.update(value.name.encode() + b"\0")
    for node in graph.graph.node:
        digest.update(node.SerializeToString(deterministic=True))
    for weight in sorted(graph.graph.initializer, key=lambda weight: weight.name):
        digest.update(f"{weight.name} {weight.data_type} {list(weight.dims)}".encode())
        digest.update(weights.raw(weight))
    return digest.hexdigest()


def _noted(batches: Batches, note: Callable[[Sequence[str]], None]) -> Iterator[Mapping[str, Array]]:
    """The batches, the digests of their cases being passed to `note`."""
    for batch in batches:
        note(case_digests(batch))
        yield batch
