"""Finds graph patterns that TensorRT is publicly known to compile wrongly; each module describes one pattern."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from deploytool.known_issues import read_strided_concat
from deploytool.known_issues.place import AffectedReleases, Place

if TYPE_CHECKING:
    import onnx


class KnownIssue(Protocol):
    """Satisfied by a module of this package; its docstring describes the bug and exactly which graphs match."""

    __name__: str
    ISSUE: str  # the public report
    AFFECTED: tuple[AffectedReleases, ...]  # only what public reports state

    def find(self, graph: onnx.GraphProto) -> tuple[Place, ...]:
        """Every match in a graph."""


KNOWN_ISSUES: tuple[KnownIssue, ...] = (read_strided_concat,)


@dataclass(frozen=True)
class Match:
    """A place in a graph that matches a known issue, and the releases that the issue affects."""

    pattern: str
    issue: str
    place: Place
    affected: tuple[AffectedReleases, ...]

    def endangers(self, flavour: str, version: str, capabilities: Sequence[str]) -> bool:
        """Whether the issue affects an engine of that flavour and release, for those compute capabilities."""
        return any(releases.covers(flavour, version, capabilities) for releases in self.affected)


def find(graph: onnx.GraphProto) -> tuple[Match, ...]:
    """Every match of any known issue in the graph."""
    return tuple(
        Match(issue.__name__.rpartition(".")[2], issue.ISSUE, place, issue.AFFECTED)
        for issue in KNOWN_ISSUES
        for place in issue.find(graph)
    )
