"""Estimates the memory of an export from the size of the weights, and compares it with the available memory."""

from __future__ import annotations

import math
import string
from collections.abc import Mapping, Sequence

from deploytool.errors import ResourceExhausted, StageFailed
from deploytool.host import disk, memory
from deploytool.spec import Job, Model, Options, Tensor

# Memory of an export with all its children per byte of weights: the largest sum of proportional set sizes (/proc) for
# stacks of fully connected layers and of convolutions with 47, 95 and 198 MB (50, 101 and 202 MB) of
# weights, exported with --quick --pack (0.9 to 2.7 GB), and with planted faults and an engine (1.3 to 2.5 GB; up to 101
# MB): Linux, Python 3.11, torch 2.13, ONNX Runtime 1.31, 2 processors. Engines alone add almost nothing.
_BASE, _PER_BYTE, _PER_BYTE_WITH_FAULTS = 400e6, 12.0, 22.5
_MAX_ONNX_BYTES = 1 << 31  # limit of a protobuf message


_INPUT_COPIES = 2  # at least: the inputs themselves, and what the first layer makes of them


def case_bytes(inputs: Sequence[Tensor], sizes: Mapping[str, int]) -> int:
    """The bytes of one case of all inputs, with the size of each dynamic dimension but the batch."""
    return sum(
        math.prod(sizes.get(side, 1) if isinstance(side, str) else side for side in tensor.shape[1:])
        * int(tensor.dtype.lstrip(string.ascii_letters) or 8)  # a type's name ends with its bits
        // 8
        for tensor in inputs
    )


def check_sizes(model: Model, options: Options) -> None:
    """Raises ResourceExhausted for sizes at which the inputs alone, run as one batch, exceed the available memory."""
    largest = {name: size.largest for name, size in options.sizes.items()}
    typical = {name: size.typical for name, size in options.sizes.items()}
    batch, available = options.batch.largest, memory.available_bytes()
    takes = _INPUT_COPIES * max(
        batch * case_bytes(model.inputs, largest), options.images * case_bytes(model.inputs, typical)
    )
    if available is not None and takes > available:
        problem = f"inputs of the largest sizes, with batch size {batch}, need {disk.size(takes)} of memory"
        remedy = "give a smaller --batch, --size, --input or --images"
        raise ResourceExhausted(f"{problem}; {disk.size(available)} are available", remedy)


def needed(weights: float, job: Job) -> float:
    """The peak memory of an export in bytes; planted faults increase it, because several are tested in parallel."""
    return _BASE + (_PER_BYTE_WITH_FAULTS if job.options.faults else _PER_BYTE) * weights


def check(weights: float, job: Job) -> None:
    """Checks that the memory suffices to export a model with `weights` bytes of weights.

    The estimate includes the memory that this process already uses. Where the available memory is unknown, only the
    limit of an ONNX file is checked.

    Raises ResourceExhausted if the memory is too small, StageFailed if the weights exceed the limit of an ONNX file.
    """
    if weights >= _MAX_ONNX_BYTES:
        problem = f"{job.model.name} has {disk.size(weights)} of weights, and an ONNX file holds at most"
        raise StageFailed(f"{problem} {disk.size(_MAX_ONNX_BYTES)}", "export its parts separately")
    free, takes, least = memory.available_bytes(), needed(weights, job), _BASE + _PER_BYTE * weights
    if free is None or takes <= (available := free + memory.resident_bytes()):
        return
    problem = f"{job.model.name} has {disk.size(weights)} of weights, and its export needs {disk.size(takes)} of memory"
    alternative = f"--faults 0 needs {disk.size(least)}; or " if least <= available else ""
    raise ResourceExhausted(f"{problem}; {disk.size(available)} are available", f"{alternative}{memory.REMEDY}")
