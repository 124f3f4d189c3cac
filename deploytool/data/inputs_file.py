"""Reads golden inputs from a user's `.npz` file: one array per input name, with the cases on the first axis."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from numpy.lib.npyio import NpzFile

from deploytool.data import preprocess
from deploytool.data.golden import Arrays
from deploytool.errors import BadInput
from deploytool.spec import BATCH, DTYPES, Range, Tensor

_MAX_BYTES, _MAX_RATIO = 128 << 20, 50  # larger arrays must not be compressed further than this ratio
_FORM = "save it so: numpy.savez(FILE, NAME=array), the cases on the first axis"


def declared(path: Path) -> tuple[Tensor, ...]:
    """The inputs that a file's arrays declare, in their order; integers are bounded by the largest value.

    Raises BadInput if the file cannot be read as such.
    """
    arrays = _arrays(path)
    for name, array in arrays.items():
        _check(path, name, array)
    return tuple(
        Tensor(
            name, (BATCH, *array.shape[1:]), array.dtype.name, int(array.max()) + 1 if array.dtype.kind in "iu" else 2
        )
        for name, array in arrays.items()
    )


def read(path: Path, inputs: Sequence[Tensor], free: Mapping[str, Range], most: int) -> Arrays:
    """The first `most` cases of a file, in the order of the model's inputs; a free size has one value of its range.

    Raises BadInput if the file cannot be read, and for names, types, shapes or values that an input does not accept.
    """
    arrays = _arrays(path)
    names = [tensor.name for tensor in inputs]
    if set(arrays) != set(names):
        problem = f"{path} holds {', '.join(arrays) or 'nothing'}, and the inputs are {', '.join(names)}"
        raise BadInput(problem, f"save it so: numpy.savez(FILE, {', '.join(f'{name}=…' for name in names)})")
    sizes: dict[str, int] = {}
    for tensor in inputs:
        _check(path, tensor.name, arrays[tensor.name])
        _check_against(path, tensor, arrays[tensor.name], free, sizes)
    counts = {name: len(arrays[name]) for name in names}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{count} of {name}" for name, count in counts.items())
        raise BadInput(f"{path} has different numbers of cases: {listed}", "give every input as many")
    native = {tensor.name: np.dtype(tensor.dtype) for tensor in inputs}
    return {name: np.ascontiguousarray(arrays[name][:most], native[name]) for name in names}


def _arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    try:
        with path.open("rb") as opened:
            _measure(opened)
            file = np.load(opened, allow_pickle=False)
            arrays = {name: file[name] for name in file} if isinstance(file, NpzFile) else None
    except Exception as error:  # numpy and zipfile raise many types, depending on the damage
        if "pickle" in str(error):
            problem = f"{path} holds Python objects, which run code when they are read"
            raise BadInput(problem, "save arrays of numbers: array.astype('float32')") from error
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise BadInput(f"{path} cannot be read as .npz: {reason}", _FORM) from error
    if arrays is None:
        raise BadInput(f"{path} is one array without a name", _FORM)
    return arrays


def _measure(opened: BinaryIO) -> None:
    """Raises ValueError for a small file with very large arrays: reading it must not exhaust the memory."""
    length = opened.seek(0, os.SEEK_END)
    if zipfile.is_zipfile(opened):
        with zipfile.ZipFile(opened) as archive:
            held = sum(member.file_size for member in archive.infolist())
        if held > max(_MAX_BYTES, _MAX_RATIO * length):
            raise ValueError(f"it is a decompression bomb: {held} bytes of arrays in {length}")
    opened.seek(0)


def _check(path: Path, name: str, array: npt.NDArray[Any]) -> None:
    """Raises BadInput for an array that cannot be an input of any model."""
    if array.ndim == 0 or not array.size:
        raise BadInput(f"{path}: {name} has no cases: its shape is {array.shape}", _FORM)
    if array.dtype.name not in DTYPES:
        raise BadInput(f"{path}: {name} is of {array.dtype}", f"save it as one of {', '.join(DTYPES)}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise BadInput(f"{path}: {name} holds NaN or infinite numbers", "leave these cases out")


def _check_against(
    path: Path, tensor: Tensor, array: npt.NDArray[Any], free: Mapping[str, Range], sizes: dict[str, int]
) -> None:
    """Raises BadInput if an array does not fit an input; `sizes` collects the values of free sizes."""
    if array.dtype.name != tensor.dtype:
        remedy = f"save it so: {tensor.name}.astype('{tensor.dtype}'), or declare it: --input"
        raise BadInput(f"{path}: {tensor.name} is {array.dtype}, and the input is {tensor.dtype}", remedy)
    if unfit := preprocess.size_problem(array.shape, tensor, free):
        problem = f"{path}: {tensor.name} has shape {array.shape}, the cases first: {unfit}"
        raise BadInput(problem, "correct the file, or --input and --size")
    for size, side in zip(array.shape[1:], tensor.shape[1:], strict=True):
        if isinstance(side, str) and sizes.setdefault(side, size) != size:
            raise BadInput(f"{path}: {side} is {sizes[side]} and {size}", "a size has one value in a file")
