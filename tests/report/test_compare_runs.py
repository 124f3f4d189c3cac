"""The page of several runs: which artifacts are compared, and which are on the Pareto front."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from deploytool.report import compare_runs, html, pareto, run_data
from deploytool.report.rows import Point
from deploytool.report.run_data import RunData
from deploytool.results.report import Speed
from deploytool.spec import Stage, Status
from tests.report import variants
from tests.report.reading import Reader
from tests.report.variants import written


def point(latency: float, value: float, *, passed: bool = True) -> Point:
    return Point("m", "m", latency, value, passed, front=False)


def front(points: list[Point], *, lower: bool) -> list[tuple[float, float]]:
    return [(point.latency, point.value) for point in compare_runs.mark_front(points, lower=lower) if point.front]


def test_the_front_has_the_points_that_no_other_dominates() -> None:
    points = [point(1, 5), point(2, 6), point(2, 3), point(3, 3), point(4, 1), point(0.5, 9)]
    assert front(points, lower=True) == [(0.5, 9), (1, 5), (2, 3), (4, 1)]
    assert front(points, lower=False) == [(0.5, 9)]


def test_the_front_equals_that_of_a_comparison_of_all_pairs() -> None:
    points = [point(a * 7 % 11 + 1, a * 5 % 13) for a in range(30)]
    best = {
        (candidate.latency, candidate.value)
        for candidate in points
        if not any(
            (rival.latency, rival.value) != (candidate.latency, candidate.value)
            and rival.latency <= candidate.latency
            and rival.value <= candidate.value
            for rival in points
        )
    }
    assert set(front(points, lower=True)) == best


def test_an_artifact_that_fails_is_not_on_the_front_and_dominates_none() -> None:
    assert front([point(1, 1, passed=False), point(2, 5)], lower=True) == [(2, 5)]


def timed(run: Path, device: str = "a CPU") -> RunData:
    """A run with given speeds."""
    speeds = tuple(
        Speed(stage, "model.onnx", "onnxruntime", Status.MEASURED, latency, 8.0, 8.0 / latency, 1.0, 9.0)
        for stage, latency in ((Stage.TORCHSCRIPT, 1.0), (Stage.REWRITE, 2.0), (Stage.FP16, 4.0))
    )
    variants.rewrite(run, replace(written(run), speeds=speeds, device=device))
    return run_data.read(run)


def test_a_row_shows_the_fastest_artifact_that_passes(run_copy: Path, tmp_path: Path) -> None:
    (row,) = compare_runs.compare([timed(run_copy)], tmp_path).rows
    assert row.cells[-3:] == ("rewrite", "2.00 ms", "4.00×")
    variants.rewrite(run_copy, variants.broken(written(run_copy)))
    (row,) = compare_runs.compare([run_data.read(run_copy)], tmp_path).rows
    assert row.cells[-3:] == ("fp16", "4.00 ms", "2.00×")
    assert row.tone.name == "bad"


def test_only_runs_on_the_same_device_share_a_plot(run_copy: Path, tmp_path: Path) -> None:
    first, second = timed(run_copy), timed(run_copy, "another CPU")
    plots = [plot for _, plot in compare_runs.compare([first, second, first], tmp_path).plots]
    assert sorted(plot.device for plot in plots) == ["a CPU", "another CPU"]
    assert {plot.device: len(plot.points) for plot in plots} == {"a CPU": 6, "another CPU": 3}


def test_agreement_on_user_images_has_its_own_plot(run_copy: Path, tmp_path: Path) -> None:
    variants.rewrite(run_copy, variants.flipped(written(run_copy)))
    plots = [plot for _, plot in compare_runs.compare([timed(run_copy)], tmp_path).plots]
    assert [plot.vertical for plot in plots] == ["largest error against FP64", "same class as the source"]
    assert {point.label: point.value for point in plots[1].points}["tiny fp16"] == 0.5


def test_runs_of_the_same_model_are_named_by_their_folders(finished: Path, failing: Path, tmp_path: Path) -> None:
    runs = [run_data.read(finished), replace(run_data.read(failing), home=failing.parent / "other")]
    assert [row.model for row in compare_runs.compare(runs, tmp_path).rows] == ["tiny", "other"]


def test_the_page_has_every_run_and_no_hostile_markup(run_copy: Path, finished: Path, tmp_path: Path) -> None:
    variants.rewrite(run_copy, variants.hostile(written(run_copy)))
    page = Reader(html.write_comparison((finished, run_copy), tmp_path / "new" / "several.html").read_text())
    assert "2 runs compared" in page.text
    assert not [tag for tag, _ in page.tags if tag == "script"]
    assert page.text.count("pass for all that ran here") == 2


@pytest.mark.parametrize("count", [1, 12])
def test_every_model_has_a_marker(count: int) -> None:
    assert len(pareto.model_signs([str(number) for number in range(count)])) == count
