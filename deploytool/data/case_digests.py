"""Identifies cases by their content, so that equal ones are found whatever their files are called."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from deploytool.data.golden import Arrays


def case_digests(inputs: Arrays) -> tuple[str, ...]:
    """The SHA-256 of each case, the first axis of every array: of the names, types, shapes and values."""
    count = len(next(iter(inputs.values()), ()))
    return tuple(_digest({name: array[index] for name, array in inputs.items()}) for index in range(count))


def picture_digest(pixels: npt.NDArray[np.uint8]) -> str:
    """The SHA-256 of the decoded pixels of a picture."""
    return _digest({"": pixels})


def _digest(arrays: Arrays) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name}\0{array.dtype.str}{array.shape}\0".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
