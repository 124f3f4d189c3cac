from __future__ import annotations

import dataclasses
import math

import pytest

from deploytool import verdict
from deploytool.report import BUILT_NOT_RUN, MEASURED, SCHEMA, Check, Hop, Parity, Reach, Report, Tolerance, Weights

WEIGHTS = Weights(10, 1, 2)
TOLERANCE = Tolerance(1e-5, 1.0, 90.0, 1.0, 1.0)


def check(*broken: str) -> Check:
    return Check("simplify", Parity(0.0, 1.0, 400.0, 1.0, 1.0, 0), TOLERANCE, broken)


def written(*hops: Hop, reach: Reach | None = None) -> Report:
    return Report(SCHEMA, "tiny", "a CPU", 1, 10, 4, 0.01, None, hops, (), None, reach, None, (), (), (), {})


def hop(stage: str, *checks: Check, status: str = MEASURED) -> Hop:
    return Hop(stage, "graph.onnx", "onnxruntime", "cpu", status, checks)


def test_every_broken_check_has_its_line() -> None:
    report = written(hop("translate", check()), hop("halve", check("max_error", "top1"), check("bad")))
    assert verdict.broken(report) == ("halve against simplify: max_error, top1", "halve against simplify: bad")


def test_what_was_not_run_is_not_measured() -> None:
    report = written(hop("halve", check()), hop("build", status=BUILT_NOT_RUN))
    assert verdict.broken(report) == ()
    assert verdict.unmeasured(report) == ("build: built, not run",)


@pytest.mark.parametrize(
    ("largest", "node", "overflows", "coarse"),
    [
        ({"a": 3.0, "b": 511.0}, "b", False, ()),
        ({"a": 65504.0, "b": 600.0}, "a", False, ("a", "b")),
        ({"a": 3.0, "b": 65505.0}, "b", True, ("b",)),
        ({"a": math.inf, "b": 70000.0}, "a", True, ("a", "b")),
        ({"a": math.nan}, "a", True, ("a",)),
    ],
)
def test_the_reach_names_the_node_that_gets_furthest(
    largest: dict[str, float], node: str, overflows: bool, coarse: tuple[str, ...]
) -> None:
    reach = verdict.reach(largest, WEIGHTS)
    assert (reach.node, reach.overflows, reach.coarse) == (node, overflows, coarse)
    assert math.isfinite(reach.largest)
    lines = verdict.broken(written(reach=reach))
    assert bool(lines) is overflows
    assert not lines or node in lines[0]


OVERFLOW = Reach("/stem/Conv", 1e6, ("/stem/Conv",), WEIGHTS)


@pytest.mark.parametrize(
    ("report", "mends"),
    [
        (written(hop("halve", check())), False),
        (written(hop("halve", check("max_error"))), True),
        (written(hop("halve", check()), reach=OVERFLOW), True),
        (written(hop("build", check("bad")), reach=OVERFLOW), True),
        (written(hop("simplify", check("max_error")), hop("halve", check("max_error"))), False),
    ],
)
def test_fp32_may_mend_what_fp16_alone_broke(report: Report, mends: bool) -> None:
    assert verdict.mends(report) is mends
    kept = dataclasses.replace(report, remarks=("halve: kept in FP32: stem (1 of 9 nodes)",))
    assert verdict.mends(kept) is False
