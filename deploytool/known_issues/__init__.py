"""What TensorRT is publicly known to compile wrongly, and where in a graph that would be: one file a pattern."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from deploytool.known_issues import read_strided_concat
from deploytool.known_issues.place import Place, Seen

if TYPE_CHECKING:
    import onnx


class KnownIssue(Protocol):
    """Satisfied by a module of this folder, whose docstring says what is wrong and exactly which graphs it matches."""

    __name__: str
    ISSUE: str  # the public thread it is known from
    SEEN: tuple[Seen, ...]  # only what a public thread says

    def find(self, graph: onnx.GraphProto) -> tuple[Place, ...]:
        """Every place of a graph that has the shape."""


MISCOMPILES: tuple[KnownIssue, ...] = (read_strided_concat,)


@dataclass(frozen=True)
class Match:
    """A place of a graph that a known miscompile can hit, and who was seen to do so."""

    pattern: str
    issue: str
    place: Place
    seen: tuple[Seen, ...]

    def endangers(self, flavour: str, version: str, capabilities: Sequence[str]) -> bool:
        """Whether an engine of that flavour and release, for those compute capabilities, can be hit."""
        return any(seen.covers(flavour, version, capabilities) for seen in self.seen)


def find(graph: onnx.GraphProto) -> tuple[Match, ...]:
    """Every place of the graph that any known miscompile can hit."""
    return tuple(
        Match(each.__name__.rpartition(".")[2], each.ISSUE, place, each.SEEN)
        for each in MISCOMPILES
        for place in each.find(graph)
    )
