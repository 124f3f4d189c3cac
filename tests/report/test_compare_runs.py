"""Several runs on one page: what is compared with what, and what stands on the front."""

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


def point(latency: float, right: float, *, held: bool = True) -> Point:
    return Point("m", "m", latency, right, held, front=False)


def front(points: list[Point], *, lower: bool) -> list[tuple[float, float]]:
    return [(each.latency, each.right) for each in compare_runs._front(points, lower=lower) if each.front]


def test_the_front_is_what_nothing_beats_in_both() -> None:
    points = [point(1, 5), point(2, 6), point(2, 3), point(3, 3), point(4, 1), point(0.5, 9)]
    assert front(points, lower=True) == [(0.5, 9), (1, 5), (2, 3), (4, 1)]
    assert front(points, lower=False) == [(0.5, 9)]


def test_the_front_is_what_a_comparison_of_all_pairs_gives() -> None:
    points = [point(a * 7 % 11 + 1, a * 5 % 13) for a in range(30)]
    best = {
        (one.latency, one.right)
        for one in points
        if not any(
            (other.latency, other.right) != (one.latency, one.right)
            and other.latency <= one.latency
            and other.right <= one.right
            for other in points
        )
    }
    assert set(front(points, lower=True)) == best


def test_what_fails_its_checks_is_on_no_front_and_beats_nobody() -> None:
    assert front([point(1, 1, held=False), point(2, 5)], lower=True) == [(2, 5)]


def timed(run: Path, device: str = "a CPU") -> RunData:
    """The facts of a run with speeds of our own."""
    speeds = tuple(
        Speed(stage, "model.onnx", "onnxruntime", Status.MEASURED, latency, 8.0, 8.0 / latency, 1.0, 9.0)
        for stage, latency in ((Stage.TORCHSCRIPT, 1.0), (Stage.REWRITE, 2.0), (Stage.FP16, 4.0))
    )
    variants.rewrite(run, replace(written(run), speeds=speeds, device=device))
    return run_data.read(run)


def test_a_row_boasts_of_the_fastest_that_holds(run_copy: Path, tmp_path: Path) -> None:
    (row,) = compare_runs.compare([timed(run_copy)], tmp_path).rows
    assert row.cells[-3:] == ("rewrite", "2.00 ms", "4.00×")
    variants.rewrite(run_copy, variants.broken(written(run_copy)))
    (row,) = compare_runs.compare([run_data.read(run_copy)], tmp_path).rows
    assert row.cells[-3:] == ("fp16", "4.00 ms", "2.00×")
    assert row.tone.name == "bad"


def test_only_runs_of_one_device_share_a_plot(run_copy: Path, tmp_path: Path) -> None:
    one, other = timed(run_copy), timed(run_copy, "another CPU")
    drawn = [each for _, each in compare_runs.compare([one, other, one], tmp_path).fronts]
    assert sorted(each.device for each in drawn) == ["a CPU", "another CPU"]
    assert {each.device: len(each.points) for each in drawn} == {"a CPU": 6, "another CPU": 3}


def test_agreement_on_photographs_gets_a_plot_of_its_own(run_copy: Path, tmp_path: Path) -> None:
    variants.rewrite(run_copy, variants.flipped(written(run_copy)))
    drawn = [each for _, each in compare_runs.compare([timed(run_copy)], tmp_path).fronts]
    assert [each.vertical for each in drawn] == ["largest error against FP64", "same class as the source"]
    assert {each.label: each.right for each in drawn[1].points}["tiny halve"] == 0.5


def test_runs_of_one_model_go_by_their_folders(finished: Path, failing: Path, tmp_path: Path) -> None:
    runs = [run_data.read(finished), replace(run_data.read(failing), home=failing.parent / "other")]
    assert [row.model for row in compare_runs.compare(runs, tmp_path).rows] == ["tiny", "other"]


def test_the_page_holds_every_run_and_no_one_elses_words(run_copy: Path, finished: Path, tmp_path: Path) -> None:
    variants.rewrite(run_copy, variants.hostile(written(run_copy)))
    page = Reader(html.write_comparison((finished, run_copy), tmp_path / "new" / "several.html").read_text())
    assert "2 runs side by side" in page.text
    assert not [tag for tag, _ in page.tags if tag == "script"]
    assert page.text.count("pass for all that ran here") == 2


@pytest.mark.parametrize("count", [1, 12])
def test_every_model_has_a_sign(count: int) -> None:
    assert len(pareto.marks([str(number) for number in range(count)])) == count
