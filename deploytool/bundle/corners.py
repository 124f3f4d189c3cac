"""The corners that a bundle states: the ends of every dynamic dimension, with what proves them on a device."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from deploytool.results import corners
from deploytool.results.report import Limits
from deploytool.spec import BATCH, Range


@dataclass(frozen=True)
class Corner:
    """One combination of sizes at which a device compares the model with the source.

    `sizes` gives every dynamic dimension, the batch included. `cases` is the file with inputs and answers of these
    sizes, and `limits` has the tolerances there by precision, which apply beside those of the golden cases. Without a
    file the golden cases are repeated up to the batch. `memory_mib` is the memory that any graph may need on a CPU for
    a batch larger than that of the golden cases, beyond an empty session; None if it is not larger, or if that is
    unknown.
    """

    sizes: Mapping[str, int]
    cases: str = ""
    limits: Mapping[str, Limits] = field(default_factory=dict)
    memory_mib: int | None = None

    @property
    def batch(self) -> int:
        """The number of cases at once."""
        return self.sizes[BATCH]

    @property
    def name(self) -> str:
        """How people call it: `batch 8, H 64, W 32`."""
        others = {name: size for name, size in sorted(self.sizes.items()) if name != BATCH}
        return corners.label({BATCH: self.batch, **others})


def problem(
    stated: Sequence[Corner], free: Mapping[str, Range], files: Collection[str], largest_mib: int
) -> str | None:
    """The first problem of the corners in a manifest with these dynamic dimensions and files; None if all are valid."""
    for corner in stated:
        if set(corner.sizes) != set(free):
            return "a corner does not give every dynamic dimension"
        if not all(free[name].smallest <= size <= free[name].largest for name, size in corner.sizes.items()):
            return "a corner has a size out of range"
        if corner.cases and corner.cases not in files:
            return "a corner has no cases"
        if corner.memory_mib is not None and not 0 < corner.memory_mib <= largest_mib:
            return "the memory of a corner is out of range"
    return None
