"""Estimates the memory of an export from the size of the weights, and compares it with the available memory."""

from __future__ import annotations

import math
import string
from collections.abc import Mapping, Sequence

from deploytool.errors import ResourceExhausted
from deploytool.host import disk, memory, side_files
from deploytool.spec import Job, Model, Options, Tensor

# Memory of an export with all its children per byte of weights: the largest sum of proportional set sizes (/proc) for
# stacks of fully connected layers and of convolutions with 47, 95 and 198 MB (50, 101 and 202 MB) of
# weights, exported with --quick --pack (0.9 to 2.7 GB), and with planted faults and an engine (1.3 to 2.5 GB; up to 101
# MB): Linux, Python 3.11, torch 2.13, ONNX Runtime 1.31, 2 processors. Engines alone add almost nothing.
_BASE, _PER_BYTE, _PER_BYTE_WITH_FAULTS = 400e6, 12.0, 22.5
# Beyond the limit of one file, where weights are read from side files; measured by test_stage_memory.py with a lowered
# limit and 151 MB of weights: at most 4.4 bytes beyond the base in the largest process, at the export and the faults.
_PER_LARGE_BYTE = 5.0
_INPUT_COPIES = 2  # at least: the inputs themselves, and what the first layer makes of them
# Copies of the answer to an image: in all, and for each golden image. Peaks of a small graph with an output of 4 MB,
# exported with 4 and 32 golden images, and of 17 MB with 4: 0.95, 3.4 and 2.6 GB.
_ANSWER_COPIES, _COPIES_PER_IMAGE = 48, 20


def case_bytes(tensors: Sequence[Tensor], sizes: Mapping[str, int]) -> int:
    """The bytes of one case of all these tensors, with the size of each dynamic dimension but the batch."""
    return sum(
        math.prod(sizes.get(side, 1) if isinstance(side, str) else side for side in tensor.shape[1:])
        * int(tensor.dtype.lstrip(string.ascii_letters) or 8)  # a type's name ends with its bits
        // 8
        for tensor in tensors
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
        needs, has = disk.sizes(takes, available)
        problem = f"inputs of the largest sizes, with batch size {batch}, need {needs} of memory"
        remedy = "give a smaller --batch, --size, --input or --images"
        raise ResourceExhausted(f"{problem}; {has} are available", remedy)


def check_answers(model: Model, options: Options) -> None:
    """Raises ResourceExhausted if the answers to the golden images need more memory than is available."""
    typical = {name: size.typical for name, size in options.sizes.items()}
    answer, available = case_bytes(model.outputs, typical), memory.available_bytes()
    takes = (_ANSWER_COPIES + _COPIES_PER_IMAGE * options.images) * answer
    if available is not None and takes > available:
        problem = f"the outputs of an image take {disk.size(answer)}, and the check of {options.images} images needs"
        remedy = "export fewer outputs with --output, or give fewer --images"
        needs, has = disk.sizes(takes, available)
        raise ResourceExhausted(f"{problem} {needs} of memory; {has} are available", remedy)


def needed(weights: float, *, faults: bool) -> float:
    """The peak memory of an export in bytes; planted faults increase it, because several are tested in parallel.

    Beyond the limit of one file, weights are read from side files when they are needed, and faults are tested one by
    one.
    """
    if weights > side_files.MAX_INLINE_BYTES:
        return _BASE + _PER_LARGE_BYTE * weights
    return _BASE + (_PER_BYTE_WITH_FAULTS if faults else _PER_BYTE) * weights


def check(weights: float, job: Job) -> None:
    """Raises ResourceExhausted if the memory does not suffice to export a model with `weights` bytes of weights.

    The estimate includes the memory that this process already uses. Where the available memory is unknown, nothing is
    checked.
    """
    free, faults = memory.available_bytes(), bool(job.options.faults)
    takes, least = needed(weights, faults=faults), needed(weights, faults=False)
    if free is None or takes <= (available := free + memory.resident_bytes()):
        return
    needs, has = disk.sizes(takes, available)
    problem = f"{job.model.name} has {disk.size(weights)} of weights, and its export needs {needs} of memory"
    alternative = f"--faults 0 needs {disk.size(least)}; or " if least <= available else ""
    raise ResourceExhausted(f"{problem}; {has} are available", f"{alternative}{memory.REMEDY}")
