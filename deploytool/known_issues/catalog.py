"""Finds graph patterns that TensorRT is publicly known to compile wrongly; each module describes one pattern."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from deploytool.known_issues import (
    fuse_half_attention,
    read_strided_concat,
    reduce_keys,
    rotate_after_prefix,
    round_lengths,
    sample_across_batch,
)
from deploytool.known_issues.place import AffectedReleases, Place

if TYPE_CHECKING:
    import onnx


class KnownIssue(Protocol):
    """Satisfied by a module of this package; its docstring describes the bug and exactly which graphs match."""

    __name__: str
    ISSUE: str  # the public report
    AFFECTED: tuple[AffectedReleases, ...]  # only what public reports state
    WORKAROUND: str | None  # of the public report
    MOST_PROBES: int | None  # where the places repeat one kernel, not each needs a probe; None: no limit

    def find(self, graph: onnx.GraphProto) -> tuple[Place, ...]:
        """Every match in a graph."""


KNOWN_ISSUES: tuple[KnownIssue, ...] = (
    read_strided_concat,
    sample_across_batch,
    reduce_keys,
    fuse_half_attention,
    rotate_after_prefix,
    round_lengths,
)


@dataclass(frozen=True)
class Match:
    """A place in a graph that matches a known issue, the releases that it affects, and whether a probe checks it."""

    pattern: str
    issue: str
    place: Place
    affected: tuple[AffectedReleases, ...]
    workaround: str | None = None
    is_probed: bool = True

    def endangers(self, flavour: str, version: str, capabilities: Sequence[str]) -> bool:
        """Whether the issue affects an engine of that flavour and release, for those compute capabilities."""
        return any(releases.covers(flavour, version, capabilities) for releases in self.affected)


def find(graph: onnx.GraphProto) -> tuple[Match, ...]:
    """Every match of any known issue in the graph."""
    return tuple(match for issue in KNOWN_ISSUES for match in _matches(issue, issue.find(graph)))


def _matches(issue: KnownIssue, places: Sequence[Place]) -> Iterator[Match]:
    probed = spread(len(places), issue.MOST_PROBES)
    for index, place in enumerate(places):
        pattern = issue.__name__.rpartition(".")[2]
        yield Match(pattern, issue.ISSUE, place, issue.AFFECTED, issue.WORKAROUND, index in probed)


def spread(count: int, most: int | None) -> Set[int]:
    """At most `most` of the indices below `count`, at equal distances, the first and the last among them."""
    if most is None or count <= most:
        return frozenset(range(count))
    return {round(number * (count - 1) / (most - 1)) for number in range(most)}
