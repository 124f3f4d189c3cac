from __future__ import annotations

from pathlib import Path

import pytest

from deploytool.known_issues import catalog
from deploytool.known_issues.place import AffectedReleases
from tests.known_issues.graphs import graph, reported_pattern

UNFIXED = AffectedReleases("tensorrt", "11.2", None, ("12.0",))
FIXED = AffectedReleases("tensorrt", "11.2", "11.10", ("8.9", "12.0"))


@pytest.mark.parametrize(
    ("releases", "flavour", "version", "capabilities", "is_affected"),
    [
        (UNFIXED, "tensorrt", "11.2.1.2", ("12.0",), True),
        (UNFIXED, "tensorrt", "11.10.0.1", ("12.0",), True),
        (UNFIXED, "tensorrt", "11.1.0.106", ("12.0",), False),
        (UNFIXED, "tensorrt", "10.14.1.48", ("12.0",), False),
        (UNFIXED, "tensorrt", "11.2.1.2", ("9.0",), False),
        (UNFIXED, "tensorrt", "11.2.1.2", (), False),
        (UNFIXED, "tensorrt_rtx", "11.2.1.2", ("12.0",), False),
        (FIXED, "tensorrt", "11.9", ("8.6", "8.9"), True),
        (FIXED, "tensorrt", "11.10", ("8.9",), False),
        (FIXED, "tensorrt", "11.2b1", ("8.9",), False),
    ],
)
def test_only_reported_releases_and_capabilities_are_affected(
    releases: AffectedReleases, flavour: str, version: str, capabilities: tuple[str, ...], is_affected: bool
) -> None:
    assert releases.covers(flavour, version, capabilities) is is_affected


def test_a_match_names_the_place_and_the_affected_releases() -> None:
    (match,) = catalog.find(graph(reported_pattern()))
    assert (match.pattern, match.issue, match.place.tensor) == ("read_strided_concat", "NVIDIA/TensorRT#4854", "sum")
    assert match.endangers("tensorrt", "11.3.0.1", ("12.0",))
    assert not match.endangers("tensorrt_rtx", "1.7.1.116", ("12.0",))
    assert str(match.affected[0]) == "tensorrt from 11.2 on (no fix known), compute capability 12.0"


@pytest.mark.parametrize("issue", catalog.KNOWN_ISSUES, ids=lambda issue: issue.ISSUE)
def test_every_issue_has_a_public_report_and_a_description(issue: catalog.KnownIssue) -> None:
    assert "#" in issue.ISSUE
    assert issue.ISSUE in str(issue.__doc__)
    assert issue.AFFECTED


@pytest.mark.parametrize(
    ("count", "most", "expected"),
    [
        (0, 4, set()),
        (1, 4, {0}),
        (4, 4, {0, 1, 2, 3}),
        (5, 4, {0, 1, 3, 4}),
        (32, 4, {0, 10, 21, 31}),
        (3, None, {0, 1, 2}),
    ],
)
def test_the_probes_are_spread_over_the_places(count: int, most: int | None, expected: set[int]) -> None:
    assert catalog.spread(count, most) == expected


def test_every_module_of_a_pattern_is_in_the_catalog() -> None:
    folder = Path(catalog.__file__).parent
    modules = {path.stem for path in folder.glob("*.py") if "\nISSUE = " in path.read_text()}
    assert {issue.__name__.rpartition(".")[2] for issue in catalog.KNOWN_ISSUES} == modules
