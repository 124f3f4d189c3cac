from __future__ import annotations

import pytest

from deploytool.benchmark.ratio import Ratio
from tests.bench.goals import BOTH, OPENVINO, ORT, Goal, goals, judge, report_lines


@pytest.mark.parametrize(
    ("model", "batch", "threads", "expected"),
    [
        ("mixnet_l", 1, 1, [(ORT, 1.7), (OPENVINO, 1.0), (BOTH, 0.98)]),
        ("mixnet_s", 8, 2, [(ORT, 2.0), (OPENVINO, 1.0), (BOTH, 0.98)]),
        ("shufflenet_g3", 8, 1, [(ORT, 1.2), (BOTH, 0.98)]),
        ("shufflenet_g3", 8, 2, [(ORT, 0.98), (BOTH, 0.98)]),
        ("shufflenet_g8", 1, 1, [(ORT, 0.98), (BOTH, 0.98)]),
        ("squeezenet1_1", 1, 1, [(ORT, 0.98), (OPENVINO, 0.98), (BOTH, 0.98)]),
    ],
)
def test_every_family_has_its_goals(model: str, batch: int, threads: int, expected: list[tuple[str, float]]) -> None:
    assert [(goal.rival, goal.least) for goal in goals(model, batch, threads)] == expected


@pytest.mark.parametrize(
    ("goal", "ratio", "ending"),
    [
        (Goal(ORT, 1.7), Ratio(1.8, 1.75, 1.9), "reached"),
        (Goal(ORT, 1.7), Ratio(1.8, 1.6, 1.9), "reached (within the spread)"),
        (Goal(ORT, 1.7), Ratio(1.65, 1.6, 1.9), "MISSED (within the spread)"),
        (Goal(ORT, 1.7), Ratio(1.5, 1.4, 1.6), "MISSED"),
        (Goal(OPENVINO, 1.0, beyond_noise=True), Ratio(0.9, 0.8, 1.01), "reached"),
        (Goal(OPENVINO, 1.0, beyond_noise=True), Ratio(0.9, 0.8, 0.99), "MISSED"),
    ],
)
def test_a_goal_is_reached_or_missed(goal: Goal, ratio: Ratio, ending: str) -> None:
    assert judge(goal, ratio, None).endswith(f"), {ending}")


def test_an_uneven_machine_gives_no_verdict() -> None:
    (line,) = report_lines("shufflenet_g1", 1, 1, {ORT: Ratio(1.1, 1.0, 1.2)}, "other programs took 1.4 of 2 cores")
    assert line.startswith("shufflenet_g1 batch 1: ≥ 0.98× ORT: 1.10× (1.00–1.20), no verdict")
    assert "other programs took 1.4 of 2 cores" in line
