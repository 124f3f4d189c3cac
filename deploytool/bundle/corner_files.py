"""Writes the corners of a run into a bundle: their cases, their batches, and the memory that they need on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from deploytool.bundle.corners import Corner
from deploytool.bundle.int8 import Int8Corner
from deploytool.bundle.manifest import MAX_MEMORY_MIB, Graph
from deploytool.host import disk
from deploytool.results.corners import RecordedCorner, key
from deploytool.rewrites.graph import memory, storage
from deploytool.spec import BATCH, Range

_FOLDER = "golden"

Needed = Callable[[Mapping[str, int], int], int | None]  # the MiB of a graph at these sizes for so many cases


def write(
    folder: Path,
    source: Path,
    recorded: Sequence[RecordedCorner],
    free: Mapping[str, Range],
    graphs: Sequence[Graph],
    usual: int,
) -> tuple[Corner, ...]:
    """Copies the cases that were recorded in the folder `source`, and returns the corners of the bundle.

    Each combination of sizes has a corner for both ends of the batch; where no size but the batch is dynamic, the
    golden cases are those of both. `usual` is the number of golden cases that are run at once: the memory of a graph
    covers as many. None are returned for a run with dynamic sizes that recorded no corners.
    """
    ends = sorted({free[BATCH].smallest, free[BATCH].largest})
    if not recorded and (len(free) > 1 or len(ends) == 1):
        return ()
    needed = [partial(memory.required_mib, storage.load_structure(folder / graph.path)) for graph in graphs]
    places = [(each.sizes, _copy(folder, source, each.file), each.limits) for each in recorded] or [({}, "", {})]
    return tuple(
        Corner(sizes, cases, limits, _memory(needed, sizes) if batch > usual else None)
        for others, cases, limits in places
        for batch in ends
        for sizes in ({BATCH: batch, **others},)
    )


def int8(folder: Path, source: Path, recorded: Sequence[RecordedCorner], graph: Path) -> Iterator[Int8Corner]:
    """Copies what was recorded of a graph in INT8 or FP8 at each corner."""
    for corner in recorded:
        if answers := corner.int8.get(key(graph)):
            yield Int8Corner(f"{_FOLDER}/{corner.file}", _copy(folder, source, answers.file), answers.limits)


def _copy(folder: Path, source: Path, file: str) -> str:
    """The path in the bundle of a file of the run."""
    disk.write(folder / _FOLDER / file, (source / file).read_bytes())
    return f"{_FOLDER}/{file}"


def _memory(needed: Sequence[Needed], sizes: Mapping[str, int]) -> int | None:
    """The MiB that any of the graphs may need at these sizes; None if it is unknown for one, or too much."""
    required = [each(sizes, sizes[BATCH]) for each in needed]
    known = [mib for mib in required if mib is not None and mib <= MAX_MEMORY_MIB]
    return max(known) if len(known) == len(required) else None
