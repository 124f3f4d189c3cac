from __future__ import annotations

import pytest

from deploytool import known_issues
from deploytool.known_issues.place import Seen
from tests.known_issues.graphs import graph, thread

OPEN = Seen("tensorrt", "11.2", None, ("12.0",))
MENDED = Seen("tensorrt", "11.2", "11.10", ("8.9", "12.0"))


@pytest.mark.parametrize(
    ("seen", "flavour", "version", "capabilities", "hit"),
    [
        (OPEN, "tensorrt", "11.2.1.2", ("12.0",), True),
        (OPEN, "tensorrt", "11.10.0.1", ("12.0",), True),
        (OPEN, "tensorrt", "11.1.0.106", ("12.0",), False),
        (OPEN, "tensorrt", "10.14.1.48", ("12.0",), False),
        (OPEN, "tensorrt", "11.2.1.2", ("9.0",), False),
        (OPEN, "tensorrt", "11.2.1.2", (), False),
        (OPEN, "tensorrt_rtx", "11.2.1.2", ("12.0",), False),
        (MENDED, "tensorrt", "11.9", ("8.6", "8.9"), True),
        (MENDED, "tensorrt", "11.10", ("8.9",), False),
        (MENDED, "tensorrt", "11.2b1", ("8.9",), False),
    ],
)
def test_only_what_was_reported_counts(
    seen: Seen, flavour: str, version: str, capabilities: tuple[str, ...], hit: bool
) -> None:
    assert seen.covers(flavour, version, capabilities) is hit


def test_a_hit_says_where_and_who() -> None:
    (hit,) = known_issues.find(graph(thread()))
    assert (hit.pattern, hit.issue, hit.place.tensor) == ("read_strided_concat", "NVIDIA/TensorRT#4854", "sum")
    assert hit.endangers("tensorrt", "11.3.0.1", ("12.0",))
    assert not hit.endangers("tensorrt_rtx", "1.7.1.116", ("12.0",))
    assert str(hit.seen[0]) == "tensorrt from 11.2 on, not known to be mended, on compute capability 12.0"


@pytest.mark.parametrize("each", known_issues.MISCOMPILES, ids=lambda each: each.ISSUE)
def test_every_pattern_names_a_thread_and_describes_itself(each: known_issues.KnownIssue) -> None:
    assert "#" in each.ISSUE
    assert each.ISSUE in str(each.__doc__)
    assert each.SEEN
