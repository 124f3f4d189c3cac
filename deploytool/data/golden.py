"""The golden sample: images, the inputs made of them, and what the source model answers, in one file without code."""

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
from deploytool.spec import Preprocessing

Arrays: TypeAlias = Mapping[str, npt.NDArray[Any]]
Pixels: TypeAlias = npt.NDArray[np.uint8]
_Edges = tuple[tuple[str, bool], ...]


@dataclass(frozen=True)
class Floor:
    """How far rounding alone moves the answers.

    `max_error` is the largest move over the largest answer, `rms` the root mean square over that of the answers.
    """

    max_error: float
    rms: float


@dataclass(frozen=True)
class Perturbation:
    """What FP32 and FP16 arithmetic move one part of the answers by, relative to the scale of that part.

    `tied32` and `tied16` are the shares of its elements that are ties, where they are numbers of something.
    """

    part: OutputPart
    fp32: Floor
    fp16: Floor
    tied32: float = 0.0
    tied16: float = 0.0


@dataclass(frozen=True)
class Noise:
    """What FP32 and FP16 arithmetic move the answers by: the most of all parts, and each of the `parts`."""

    fp32: Floor
    fp16: Floor
    parts: tuple[Perturbation, ...] = ()


@dataclass(frozen=True)
class Edge:
    """One case beside the golden ones, such as silence: inputs, and the source's FP32 and FP64 answers to them.

    It is `natural` if the model may well be given such where it is deployed, so that FP16 must hold there too.
    """

    name: str
    natural: bool
    inputs: Arrays
    outputs: Arrays
    reference: Arrays


@dataclass(frozen=True)
class Golden:
    """Golden cases, the case being the first axis of every array.

    `pixels` are uint8 NHWC images (0 × 0 where the model takes none); `inputs` what the model was given; `outputs` its
    FP32 answers; `reference` its FP64 answers; `labels` the true classes, -1 where nobody knows; `preprocessing` how
    pixels become inputs; `noise` what its own arithmetic moves the answers by; `edges` cases of their own kind;
    `ties32` and `ties16` are the least and the most (2, cases, ...) that FP32 and FP16 may make of outputs that are
    compared by equality.
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

    def ties(self, *, half: bool) -> Arrays:
        """The ties of FP32, or of FP16."""
        return self.ties16 if half else self.ties32


def write(path: Path, golden: Golden) -> None:
    """Writes the sample as one .npz file, the same bytes for the same sample."""
    groups = {"input": golden.inputs, "output": golden.outputs, "reference": golden.reference}
    groups |= {"ties32": golden.ties32, "ties16": golden.ties16}
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


def write_cases(path: Path, pixels: npt.NDArray[np.uint8], inputs: Arrays) -> None:
    """Writes cases that a golden sample should have besides its own: pixels and inputs, without answers."""
    arrays = {f"input.{name}": array for name, array in inputs.items()}
    with disk.writing(path):
        np.savez(path, allow_pickle=False, pixels=pixels, **arrays)


def read_cases(path: Path) -> tuple[npt.NDArray[np.uint8], Arrays]:
    """The pixels and inputs of a file of cases; raises BadInput if the file is something else."""
    try:
        with path.open("rb") as opened, _loaded(opened) as file:
            return file["pixels"], _group(file, "input")
    except Exception as error:  # what numpy and zipfile raise depends on where the file is broken
        raise BadInput(
            f"{path} holds no golden cases: {error}", "give the file that `deploytool faults` made"
        ) from error


def read(path: Path) -> Golden:
    """The sample of a file; raises BadInput if the file is something else."""
    try:
        with path.open("rb") as opened:
            return parse(opened, path)
    except OSError as error:
        raise _no_sample(path, error) from error


def parse(opened: BinaryIO, path: Path) -> Golden:
    """The sample in an open file, which is called `path`; raises BadInput if it is something else."""
    try:
        with _loaded(opened) as file:
            inputs, outputs, reference = (_group(file, group) for group in ("input", "output", "reference"))
            preprocessing = serde.decode(Preprocessing, serde.loads(str(file["preprocessing"])))
            noise = serde.decode(Noise, serde.loads(str(file["noise"])))
            told = serde.decode(_Edges, serde.loads(str(file["edges"]))) if "edges" in file else ()
            edges = tuple(_edge(file, number, *each) for number, each in enumerate(told))
            known = (inputs, outputs, reference, file["labels"], preprocessing, noise, edges)
            return Golden(file["pixels"], *known, _group(file, "ties32"), _group(file, "ties16"))
    except Exception as error:  # what numpy and zipfile raise depends on where the file is broken
        raise _no_sample(path, error) from error


def pixels(path: Path) -> Pixels:
    """The images of a sample alone, which is quicker; raises BadInput if the file is something else."""
    try:
        with path.open("rb") as opened, _loaded(opened) as file:
            found: Pixels = file["pixels"]
            return found
    except Exception as error:
        raise _no_sample(path, error) from error


def _no_sample(path: Path, error: Exception) -> BadInput:
    reason = next(iter(str(error).splitlines()), type(error).__name__)
    return BadInput(f"{path} is no golden sample: {reason}", "export again to record a new one")


def _loaded(opened: BinaryIO) -> NpzFile:
    """The arrays of a file as `numpy.savez` writes it, each as long as it says and none of them compressed.

    So no file takes more memory than it has bytes. Raises ValueError, or what zipfile raises, for anything else.
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
    ties32, ties16 = ({name: ends[:, :count] for name, ends in each.items()} for each in (sample.ties32, sample.ties16))
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
    )


def _edge(file: Arrays, number: int, name: str, natural: bool) -> Edge:
    inputs, outputs, reference = (_group(file, f"edge {number} {group}") for group in ("input", "output", "reference"))
    return Edge(name, natural, inputs, outputs, reference)


def _group(file: Arrays, group: str) -> dict[str, npt.NDArray[Any]]:
    return {name.partition(".")[2]: file[name] for name in file if name.partition(".")[0] == group}
