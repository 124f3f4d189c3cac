"""How TensorRT builds an engine: for which sizes, within which memory, and how long it searches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

_ADDED = {"optional": True, "omitted": True}  # as `ADDED` in `deploytool.spec`, which imports this module
LEAST_LEVEL, USUAL_LEVEL, MOST_LEVEL = 0, 3, 5  # TensorRT's optimization levels


@dataclass(frozen=True)
class Range:
    """The sizes of a dynamic dimension: an engine supports smallest to largest, and is tuned for the typical size."""

    smallest: int = 1
    typical: int = 8
    largest: int = 32


@dataclass(frozen=True)
class BuilderSettings:
    """The settings of a build; None leaves one to TensorRT.

    `workspace_mib` limits the scratch memory of any layer, also when the engine runs. `memory_mib` limits the memory of
    the GPU that kernels may take while they are tried. `level` is the optimization level: how many kernels are tried.
    `profiles` are the ranges of the dynamic dimensions but the batch, one for each optimization profile; without any,
    the engine has one profile with the ranges of the run. `stripped` leaves the weights out of the engine: they are
    those of its graph, and are filled in when it is loaded.
    """

    workspace_mib: int | None = None
    memory_mib: int | None = None
    level: int | None = None
    profiles: tuple[Mapping[str, Range], ...] = field(default=(), metadata=_ADDED)
    stripped: bool = field(default=False, metadata=_ADDED)

    def over(self, usual: BuilderSettings) -> BuilderSettings:
        """These settings, and where one is not set that of `usual`."""
        stated = {name: value for name, value in vars(self).items() if value != getattr(UNSET, name)}
        return replace(usual, **stated)


USUAL_BATCH = Range()
UNSET = BuilderSettings()  # everything is left to TensorRT
