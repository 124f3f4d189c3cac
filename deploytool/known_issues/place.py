"""A place in a graph where a compiler is known to go wrong, and the releases and GPUs it was seen on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """`tensor` is the first that would be wrong, `nodes` what makes up the place, in the order of the graph."""

    tensor: str
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class Seen:
    """Who goes wrong: a TensorRT flavour from one release until another (None: it is not known to be mended).

    `capabilities` are the compute capabilities it was reported on, and no others are counted.
    """

    flavour: str
    since: str
    mended: str | None
    capabilities: tuple[str, ...]

    def covers(self, flavour: str, version: str, capabilities: Sequence[str]) -> bool:
        """Whether an engine of that flavour and release, for those compute capabilities, can be hit."""
        if flavour != self.flavour or not set(capabilities) & set(self.capabilities):
            return False
        release = _release(version)
        return _release(self.since) <= release and (self.mended is None or release < _release(self.mended))

    def __str__(self) -> str:
        until = f"until {self.mended}" if self.mended else "on, not known to be mended"
        return f"{self.flavour} from {self.since} {until}, on compute capability {', '.join(self.capabilities)}"


def _release(version: str) -> tuple[int, ...]:
    """The numbers of a version, as far as they are numbers."""
    numbers: list[int] = []
    for part in version.split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)
