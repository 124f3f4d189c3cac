"""Tells from TensorRT's log that a build failed for lack of memory, which TensorRT reports in many ways."""

from __future__ import annotations

import re
from collections.abc import Sequence

from deploytool.builder_settings import BuilderSettings
from deploytool.errors import OutOfMemory

_WORKSPACE = re.compile(r"insufficient workspace|not have sufficient workspace|within workspace limit", re.IGNORECASE)
_DEVICE = re.compile(
    r"out of memory|OutOfMemory|GPU memory .*could not be allocated|insufficient memory|memory is insufficient"
    r"|bad_alloc|failed to allocate",
    re.IGNORECASE,
)  # "Could not find any implementation for node" follows such a line, and does not say why
_REQUESTED = re.compile(r"requested size (?:was|of) (\d+)", re.IGNORECASE)  # in bytes
_LONGEST = 200  # characters of a message


def is_shortage(message: str) -> bool:
    """Whether a message of any severity says that memory or workspace was too small."""
    return bool(_WORKSPACE.search(message) or _DEVICE.search(message))


def failure(flavour: str, shortages: Sequence[str], settings: BuilderSettings) -> OutOfMemory | None:
    """The error of a build that failed after these messages; None if memory was not the reason."""
    if not shortages:
        return None
    limit = settings.workspace_mib
    beyond = [message for message in shortages if limit is None or not _is_of_limit(message, limit)]
    message = " ".join((beyond or shortages)[-1].split())[:_LONGEST]
    if not beyond:
        problem = f"{flavour} could not build the engine: the workspace of {limit} MiB is too small: {message}"
        return OutOfMemory(problem, "raise --workspace")
    remedy = "stop what else uses the GPU, or lower --workspace, --optimization-level or the largest --batch"
    if settings.memory_mib is not None:
        remedy = f"raise --builder-memory, which is {settings.memory_mib} MiB, or {remedy}"
    return OutOfMemory(f"{flavour} ran out of memory while it built the engine: {message}", remedy)


def _is_of_limit(message: str, workspace_mib: int) -> bool:
    """Whether a message is about the limit on the workspace: TensorRT also calls that out of memory."""
    requested = _REQUESTED.search(message)
    return bool(_WORKSPACE.search(message)) or (requested is not None and int(requested[1]) > workspace_mib << 20)
