"""Describes where in a graph a compiler bug can occur, and which TensorRT releases and GPUs it affects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """One match in a graph: the tensor to compare, and the names of the nodes, in graph order; remarks name the second.

    The tensor is the first that would be wrong, or one soon after it that can be an output without changing the fusion.
    """

    tensor: str
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class AffectedReleases:
    """The releases of a TensorRT flavour from `since` up to `fixed_in`, without that one (None: no fix is known).

    `capabilities` are the compute capabilities in the bug report; no others count as affected.
    """

    flavour: str
    since: str
    fixed_in: str | None
    capabilities: tuple[str, ...]

    def covers(self, flavour: str, version: str, capabilities: Sequence[str]) -> bool:
        """Whether an engine of that flavour and release, for those compute capabilities, is affected."""
        if flavour != self.flavour or not set(capabilities) & set(self.capabilities):
            return False
        release = _release(version)
        return _release(self.since) <= release and (self.fixed_in is None or release < _release(self.fixed_in))

    def __str__(self) -> str:
        end = f"until {self.fixed_in}" if self.fixed_in else "on (no fix known)"
        return f"{self.flavour} from {self.since} {end}, compute capability {', '.join(self.capabilities)}"


def _release(version: str) -> tuple[int, ...]:
    """The leading numeric parts of a version."""
    numbers: list[int] = []
    for part in version.split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)
