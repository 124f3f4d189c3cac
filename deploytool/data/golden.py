"""The golden sample: images, inputs, and the source model's answers, in one .npz file without pickled objects."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt
from numpy.lib.npyio import NpzFile

from deploytool import serde
from deploytool.errors import BadInput
from deploytool.host import disk
from deploytool.results.output_parts import OutputPart
from deploytool.spec import ADDED, Precision, Preprocessing
from deploytool.tasks.rows import DetectionRows

Arrays: TypeAlias = Mapping[str, npt.NDArray[Any]]
Pixels: TypeAlias = npt.NDArray[np.uint8]
PixelsByInput: TypeAlias = Mapping[str, Pixels]  # of every image input, in the order of the inputs
_Edges = tuple[tuple[str, bool], ...]

_FURTHER, _TIES_BF16 = "further pixels", "ties_bf16"  # groups of arrays in the file


@dataclass(frozen=True)
class Floor:
    """How far rounding alone moves the answers: a noise floor.

    `max_error` is the largest error relative to the largest answer, `rms` the relative root mean square error.
    """

    max_error: float
    rms: float


@dataclass(frozen=True)
class Perturbation:
    """The noise of one output part in FP32, in FP16 and, if it was measured, in BF16, relative to the part's scale.

    `tied32`, `tied16` and `tied_bf16` are the shares of its elements that are ties, for labels.
    """

    part: OutputPart
    fp32: Floor
    fp16: Floor
    tied32: float = 0.0
    tied16: float = 0.0
    bf16: Floor | None = field(default=None, metadata=ADDED)
    tied_bf16: float = field(default=0.0, metadata=ADDED)

    def tied(self, precision: Precision) -> float:
        """The share of ties in a precision."""
        return {Precision.FP32: self.tied32, Precision.FP16: self.tied16, Precision.BF16: self.tied_bf16}[precision]


@dataclass(frozen=True)
class Noise:
    """The noise of the answers in FP32 and in FP16: the largest of all parts, and that of each of the `parts`.

    `rows` are the detections that the model selected, which are compared as a set; None for other models. `swapped32`
    and `swapped16` are the shares of these that its suppression keeps instead of others of nearly equal score. `bf16`
    is None unless the noise in BF16 was measured too.
    """

    fp32: Floor
    fp16: Floor
    parts: tuple[Perturbation, ...] = ()
    rows: DetectionRows | None = field(default=None, metadata={"optional": True})
    swapped32: float = field(default=0.0, metadata={"optional": True})
    swapped16: float = field(default=0.0, metadata={"optional": True})
    bf16: Floor | None = field(default=None, metadata=ADDED)
    swapped_bf16: float = field(default=0.0, metadata=ADDED)

    def floor(self, precision: Precision) -> Floor:
        """The noise in a precision that was measured."""
        floor = {Precision.FP32: self.fp32, Precision.FP16: self.fp16, Precision.BF16: self.bf16}[precision]
        assert floor is not None
        return floor

    def swapped(self, precision: Precision) -> float:
        """The share of swapped rows in a precision."""
        return {Precision.FP32: self.swapped32, Precision.FP16: self.swapped16, Precision.BF16: self.swapped_bf16}[
            precision
        ]


@dataclass(frozen=True)
class Edge:
    """One edge case, such as silence: its inputs, and the source's FP32 and FP64 answers.

    It is `natural` if such inputs are expected in deployment: FP16 must then hold there too.
    """

    name: str
    natural: bool
    inputs: Arrays
    outputs: Arrays
    reference: Arrays


@dataclass(frozen=True)
class Golden:
    """Golden cases, the case being the first axis of every array.

    `pixels` are uint8 NHWC images (0 × 0 where the model takes none); `inputs` the model's inputs; `outputs` its FP32
    answers; `reference` its FP64 answers; `labels` the true classes, -1 where unknown; `preprocessing` how pixels
    become inputs; `noise` the model's numerical noise; `edges` the edge cases; `ties32`, `ties16` and
    `ties_bf16` the range (least, most) of shape (2, cases, ...) in which FP32, FP16 and BF16 rounding may move outputs
    that are compared by equality.

    `pixels` are those of the first image input, and `further_pixels` those of the others by name, which may be missing
    for the last cases.
    """

    pixels: npt.NDArray[np.uint8]
    inputs: Arrays
    outputs: Arrays
    reference: Arrays
    labels: npt.NDArray[np.int64]
    preprocessing: Preprocessing
    noise: Noise
    edges: tuple[Edge, ...] = ()
    ties32: Arrays = field(default_factory=dict)
    ties16: Arrays = field(default_factory=dict)
    further_pixels: PixelsByInput = field(default_factory=dict)
    ties_bf16: Arrays = field(default_factory=dict)

    def ties(self, precision: Precision) -> Arrays:
        """The ties in a precision."""
        return {Precision.FP32: self.ties32, Precision.FP16: self.ties16, Precision.BF16: self.ties_bf16}[precision]


def write(path: Path, golden: Golden) -> None:
    """Writes the sample as one .npz file; equal samples give equal bytes."""
    groups = {"input": golden.inputs, "output": golden.outputs, "reference": golden.reference}
    groups |= {"ties32": golden.ties32, "ties16": golden.ties16, _FURTHER: golden.further_pixels}
    groups |= {_TIES_BF16: golden.ties_bf16}
    for number, edge in enumerate(golden.edges):
        own = {"input": edge.inputs, "output": edge.outputs, "reference": edge.reference}
        groups |= {f"edge {number} {group}": arrays for group, arrays in own.items()}
    arrays = {f"{group}.{name}": array for group, named in groups.items() for name, array in named.items()}
    texts: dict[str, Any] = {"preprocessing": golden.preprocessing, "noise": golden.noise}
    if golden.edges:
        texts["edges"] = [[edge.name, edge.natural] for edge in golden.edges]
    described: dict[str, npt.NDArray[Any]] = {"pixels": golden.pixels, "labels": golden.labels}
    described |= {name: np.array(serde.text(value)) for name, value in texts.items()}
    with disk.writing(path):
        np.savez(path, allow_pickle=False, **described, **arrays)


def first_pixels(pixels: PixelsByInput, count: int) -> Pixels:
    """The pixels of the first image input of `count` cases, count × 0 × 0 × 3 without one."""
    return next(iter(pixels.values()), np.zeros((count, 0, 0, 3), np.uint8))


def write_bf16(path: Path, noise: Noise, ties: Arrays) -> None:
    """Writes what is known of a sample in BF16: the noise, with that in BF16, and the ties."""
    arrays = {f"{_TIES_BF16}.{name}": array for name, array in ties.items()}
    with disk.writing(path):
        np.savez(path, allow_pickle=False, noise=np.array(serde.text(noise)), **arrays)


def with_bf16(sample: Golden, path: Path) -> Golden:
    """The sample with the noise and the ties that `write_bf16` wrote; raises BadInput if the file holds none."""
    try:
        with path.open("rb") as opened, loaded(opened) as file:
            noise = serde.decode(Noise, serde.loads(str(file["noise"])))
            return replace(sample, noise=noise, ties_bf16=arrays_of(file, _TIES_BF16))
    except Exception as error:
        raise _no_sample(path, error) from error


def write_cases(path: Path, pixels: npt.NDArray[np.uint8], inputs: Arrays) -> None:
    """Writes further cases for a golden sample: pixels and inputs, without answers."""
    arrays = {f"input.{name}": array for name, array in inputs.items()}
    with disk.writing(path):
        np.savez(path, allow_pickle=False, pixels=pixels, **arrays)


def read_cases(path: Path) -> tuple[npt.NDArray[np.uint8], Arrays]:
    """The pixels and inputs of a file of cases; raises BadInput if it holds none."""
    try:
        with path.open("rb") as opened, loaded(opened) as file:
            return file["pixels"], arrays_of(file, "input")
    except Exception as error:  # numpy and zipfile raise many types, depending on the damage
        raise BadInput(
            f"{path} holds no golden cases: {error}", "give the file that `deploytool faults` made"
        ) from error


def write_answers(path: Path, answers: Arrays) -> None:
    """Writes what an INT8 graph answers to the golden cases, as quantised; equal answers give equal bytes."""
    with disk.writing(path):
        np.savez(path, allow_pickle=False, **{f"output.{name}": array for name, array in answers.items()})


def read_answers(path: Path) -> Arrays:
    """The answers in a file that `write_answers` wrote; raises BadInput if it holds none."""
    with path.open("rb") as opened:
        return parse_answers(opened, path)


def parse_answers(opened: BinaryIO, path: Path) -> Arrays:
    """The answers in an open file that `write_answers` wrote; raises BadInput if it holds none."""
    try:
        with loaded(opened) as file:
            return arrays_of(file, "output")
    except Exception as error:
        raise _no_sample(path, error) from error


def read(path: Path) -> Golden:
    """The sample in a file; raises BadInput if it holds none."""
    try:
        with path.open("rb") as opened:
            return parse(opened, path)
    except OSError as error:
        raise _no_sample(path, error) from error


def parse(opened: BinaryIO, path: Path) -> Golden:
    """The sample in an open file, named `path` in errors; raises BadInput if it holds none."""
    try:
        with loaded(opened) as file:
            inputs, outputs, reference = (arrays_of(file, group) for group in ("input", "output", "reference"))
            preprocessing = serde.decode(Preprocessing, serde.loads(str(file["preprocessing"])))
            noise = serde.decode(Noise, serde.loads(str(file["noise"])))
            edge_names = serde.decode(_Edges, serde.loads(str(file["edges"]))) if "edges" in file else ()
            edges = tuple(_edge(file, number, *each) for number, each in enumerate(edge_names))
            parts = (inputs, outputs, reference, file["labels"], preprocessing, noise, edges)
            grouped = (arrays_of(file, group) for group in ("ties32", "ties16", _FURTHER, _TIES_BF16))
            return Golden(file["pixels"], *parts, *grouped)
    except Exception as error:  # numpy and zipfile raise many types, depending on the damage
        raise _no_sample(path, error) from error


def pixels(path: Path) -> Pixels:
    """The images of a sample, without reading the rest; raises BadInput if the file holds none."""
    try:
        with path.open("rb") as opened, loaded(opened) as file:
            array: Pixels = file["pixels"]
            return array
    except Exception as error:
        raise _no_sample(path, error) from error


def outputs(path: Path) -> Arrays:
    """The FP32 answers of a sample, without reading the rest; raises BadInput if the file holds none."""
    try:
        with path.open("rb") as opened, loaded(opened) as file:
            return arrays_of(file, "output")
    except Exception as error:
        raise _no_sample(path, error) from error


def _no_sample(path: Path, error: Exception) -> BadInput:
    reason = next(iter(str(error).splitlines()), type(error).__name__)
    return BadInput(f"{path} is not a golden sample: {reason}", "export again to record a new one")


def loaded(opened: BinaryIO) -> NpzFile:
    """The uncompressed arrays of a file written by `numpy.savez`.

    The sizes that it declares must not exceed its length, so that reading takes no more memory than the file has bytes.
    Raises ValueError, or what zipfile raises, for any other file.
    """
    size = opened.seek(0, os.SEEK_END)
    opened.seek(0)
    with zipfile.ZipFile(opened) as archive:
        members = archive.infolist()
    if sum(member.file_size for member in members) > size:
        raise ValueError("it says that it holds more than it is long")
    opened.seek(0)
    return NpzFile(opened, allow_pickle=False)


def first_cases(sample: Golden, count: int) -> Golden:
    """The first `count` cases of a sample, all of them if there are fewer, without its edges."""
    groups = (sample.inputs, sample.outputs, sample.reference)
    inputs, outputs, reference = ({name: array[:count] for name, array in each.items()} for each in groups)
    ties = (sample.ties32, sample.ties16, sample.ties_bf16)
    ties32, ties16, ties_bf16 = ({name: ends[:, :count] for name, ends in each.items()} for each in ties)
    return replace(
        sample,
        pixels=sample.pixels[:count],
        inputs=inputs,
        outputs=outputs,
        reference=reference,
        labels=sample.labels[:count],
        edges=(),
        ties32=ties32,
        ties16=ties16,
        further_pixels={name: array[:count] for name, array in sample.further_pixels.items()},
        ties_bf16=ties_bf16,
    )


def _edge(file: Arrays, number: int, name: str, natural: bool) -> Edge:
    inputs, outputs, reference = (
        arrays_of(file, f"edge {number} {group}") for group in ("input", "output", "reference")
    )
    return Edge(name, natural, inputs, outputs, reference)


def arrays_of(file: Arrays, group: str) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a group in a file, by the name that follows that of the group."""
    return {name.partition(".")[2]: file[name] for name in file if name.partition(".")[0] == group}
