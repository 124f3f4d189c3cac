"""Reads CIFAR-10's binary files; refuses the Python version, because unpickling can run arbitrary code."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from deploytool.errors import BadInput
from deploytool.training.augmentation import ImageSet

SIDE = 32
_RECORD = 1 + 3 * SIDE * SIDE  # a label, then the red, green and blue planes
_REMEDY = "unpack cifar-10-binary.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html"


def is_cifar(folder: Path) -> bool:
    """Whether a folder holds CIFAR-10 in either form."""
    return any(folder.glob("data_batch_*"))


def read(folder: Path) -> tuple[ImageSet, ImageSet, tuple[str, ...]]:
    """Training images, test images and class names.

    Raises BadInput if a file is missing or damaged, or if these are the Python files.
    """
    batches = sorted(folder.glob("data_batch_*.bin"))
    if not batches:
        raise BadInput(f"{folder} holds the Python version of CIFAR-10: pickles, which run code when loaded", _REMEDY)
    lines = _bytes(folder / "batches.meta.txt").decode("utf-8", "replace").splitlines()
    classes = tuple(line.strip() for line in lines if line.strip())
    return _images(batches, len(classes)), _images([folder / "test_batch.bin"], len(classes)), classes


def _images(files: list[Path], classes: int) -> ImageSet:
    records = np.concatenate([_records(file, classes) for file in files])
    planes = records[:, 1:].reshape(-1, 3, SIDE, SIDE)
    return ImageSet(np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), records[:, 0].astype(np.int64))


def _records(file: Path, classes: int) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    data = np.frombuffer(_bytes(file), np.uint8)
    if len(data) == 0 or len(data) % _RECORD:
        raise BadInput(f"{file} is damaged: {len(data)} bytes are not a multiple of {_RECORD}", _REMEDY)
    records = data.reshape(-1, _RECORD)
    if records[:, 0].max() >= classes:
        raise BadInput(f"{file} is damaged: label {records[:, 0].max()} with only {classes} classes", _REMEDY)
    return records


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise BadInput(f"{file} cannot be read: {error.strerror}", _REMEDY) from error
