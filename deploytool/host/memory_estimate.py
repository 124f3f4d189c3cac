"""What an export takes in memory, known from the bytes of the weights, and whether there is as much."""

from __future__ import annotations

from deploytool.errors import NoRoom, StageFailed
from deploytool.host import disk, memory
from deploytool.spec import Job

# What an export takes with all its children, for each byte of weights: the largest sum of proportional set sizes, as
# /proc has them, of stacks of fully connected layers and of convolutions with 47, 95 and 198 MB (50, 101 and 202 MB) of
# weights, exported with --quick --pack (0.9 to 2.7 GB), and with planted faults and an engine (1.3 to 2.5 GB; up to 101
# MB): Linux, Python 3.11, torch 2.13, ONNX Runtime 1.31, 2 processors. Engines alone add next to nothing to it.
_BASE, _QUICK, _PROVED = 400e6, 12.0, 22.5
_LARGEST = 1 << 31  # bytes that a protobuf message can have


def needed(weights: float, job: Job) -> float:
    """The bytes that an export takes at the most; more where it plants faults, some of them side by side."""
    return _BASE + (_PROVED if job.options.faults else _QUICK) * weights


def check(weights: float, job: Job) -> None:
    """Refuses the export of a model with so many bytes of weights where it would take more memory than there is.

    What this process holds already is part of that. Where nobody tells how much there is, only what cannot be done
    anywhere is refused. Raises NoRoom, or StageFailed for more than one ONNX file holds.
    """
    if weights >= _LARGEST:
        problem = f"{job.model.name} has {disk.size(weights)} of weights, and an ONNX file holds at the most"
        raise StageFailed(f"{problem} {disk.size(_LARGEST)}", "export its parts one by one")
    free, takes, least = memory.available_bytes(), needed(weights, job), _BASE + _QUICK * weights
    if free is None or takes <= (there := free + memory.resident_bytes()):
        return
    problem = f"{job.model.name} has {disk.size(weights)} of weights, and its export takes {disk.size(takes)} of memory"
    less = f"--faults 0 takes {disk.size(least)}; or " if least <= there else ""
    raise NoRoom(f"{problem}; there are {disk.size(there)}", f"{less}{memory.REMEDY}")
