"""The page of a sweep: a square for each cell, reasons, what is pending, and a bounded size."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as draw

from deploytool.report import sweep_map, sweep_page, sweep_pareto, sweep_rows
from deploytool.results.artifact import PAGE
from deploytool.results.sweep import Cell, CellResult, CellState, Machine, Pending, Sweep
from deploytool.spec import Precision, Range, SpeedVerdict
from tests.cli import hostile
from tests.report import sweeps
from tests.report.reading import Reader, ids

SECTIONS = ["map", "failed", "totals", "fronts", "pending", "timing", "provenance"]


def read(sweep: Sweep, home: Path) -> Reader:
    return Reader(sweep_page.render(sweep, home))


@cache
def hundred() -> Sweep:
    return sweeps.sweep()


def squares(sweep: Sweep, home: Path) -> list[sweep_map.Square]:
    built, _ = sweep_map.maps(sweep, home)
    return [square for shown in built for row in shown.rows for square in row.squares if square]


def test_every_cell_is_a_square_with_its_figures(tmp_path: Path) -> None:
    home = sweeps.store(tmp_path, hundred())
    built, folded = sweep_map.maps(hundred(), home)
    assert [shown.title for shown in built] == ["torchscript", "dynamo"]
    assert {shown.columns for shown in built} == {sweeps.TARGETS}
    assert not folded
    found = {
        (row.model, shown.title, column): square
        for shown in built
        for row in shown.rows
        for column, square in zip(shown.columns, row.squares, strict=True)
    }
    assert len(found) == len(hundred().cells) == 120
    for result in hundred().cells:
        square = found[result.cell.model, result.cell.exporter, result.cell.target]
        assert square is not None
        assert square.mark == sweep_map.MARKS[result.state]
        assert square.link == (f"./{result.folder}/{PAGE}" if result.verdict else "")
        if result.state is CellState.PASSED:
            assert square.figures[0] == f"{result.speeds[0].ratio:.2f}× fp16"
            assert square.figures[2] == f"error {result.closeness[0].tolerances:.2g}"
            assert bool(square.pending) == (result.cell.target in ("orin", "h100"))


def test_a_square_has_the_drop_by_the_metric_of_the_user(tmp_path: Path) -> None:
    cell = sweeps.passed(sweeps.cells(1)[0], Random(0))
    for drops, shown in ((sweeps.DROPS, "map -0.0200: worse"), (sweeps.DROPS[:1], "map +0.0000: not decided")):
        (square,) = squares(sweeps.of([replace(cell, drops=drops)]), tmp_path)
        assert square.figures[-1] == shown
    (square,) = squares(sweeps.of([cell]), tmp_path)
    assert not any("map" in figure for figure in square.figures)


def test_the_sections_are_in_order_and_references_resolve(tmp_path: Path) -> None:
    page = read(hundred(), sweeps.store(tmp_path, hundred()))
    assert [name for name in ids(page) if name in SECTIONS] == SECTIONS
    names = ids(page)
    assert len(set(names)) == len(names)
    for _, attributes in page.tags:
        assert all(name in names for name in attributes.get("aria-labelledby", "").split())
        if attributes.get("href", "").startswith("#"):
            assert attributes["href"][1:] in names


def test_the_page_says_what_failed_why_and_what_helps(tmp_path: Path) -> None:
    page = read(hundred(), sweeps.store(tmp_path, hundred()))
    assert "11 of 120 cells did not pass" in page.text
    for problem, remedy, code in sweeps.PROBLEMS:
        assert f"{problem} → {remedy}" in page.text
        assert f"exit code {code}," in page.text
    assert "5 cells refused: torch.export cannot follow" in page.text
    assert "it goes on with the 4 cells that have no result yet" in page.text
    waiting = sum(bool(result.pending) and result.cell.target == "orin" for result in hundred().cells)
    assert f"○ built, not run , build/model.plan on orin, {waiting} cells: no such GPU here" in page.text


def test_equal_reasons_are_one_and_name_no_single_cell(tmp_path: Path) -> None:
    cells = [Cell(name, name) for name in "ab"]
    results = [sweeps.ended(cell, CellState.FAILED, f"cells/{cell.name}/x is wrong", "fix it", 3) for cell in cells]
    (both,), _ = sweep_rows.failures(sweeps.of(results), tmp_path)
    assert (both.problem, both.group.count) == ("CELL/x is wrong", 2)
    (one,), _ = sweep_rows.failures(sweeps.of(results[:1]), tmp_path)
    assert one.problem == "cells/a/x is wrong"


def test_a_sweep_that_passed_says_so(tmp_path: Path) -> None:
    cells = sweeps.cells(2, ("auto",), ("",))
    page = read(sweeps.of([sweeps.passed(cell, Random(0)) for cell in cells]), tmp_path)
    assert "All 2 cells passed" in page.text
    assert "What failed" not in page.text
    assert "Nothing is left for a device." in page.text
    one = read(sweeps.of([sweeps.passed(cells[0], Random(0))]), tmp_path)
    assert "The cell passed" in one.text
    assert "1 model: 1 cell" in one.text
    assert "totals" not in ids(one)


def test_an_unfinished_sweep_is_open(tmp_path: Path) -> None:
    cells = sweeps.cells(2, ("auto",), ("",))
    results = [sweeps.passed(cells[0], Random(0)), CellResult(cells[1], CellState.PENDING, "cells/b")]
    assert sweep_rows.tone(sweeps.of(results)).name == "open"
    assert "1 of 2 cells are finished" in read(sweeps.of(results), tmp_path).text


@pytest.mark.parametrize(
    ("change", "columns", "groups", "fixed"),
    [
        ({}, "target", (), ()),
        ({"targets": ("a",), "exporters": ("x", "y")}, "exporter", (), ()),
        ({"targets": ("a",), "precisions": tuple(Precision), "exporters": ("x", "y")}, "precision", ("exporter",), ()),
        ({"exporters": ("x", "y"), "batches": (None, Range(1, 1, 1))}, "target", ("exporter", "batch"), ()),
    ],
)
def test_the_options_that_differ_make_columns_and_groups(
    change: dict[str, object], columns: str, groups: tuple[str, ...], fixed: tuple[str, ...]
) -> None:
    cells = sweeps.cells(**{"models": 3, "exporters": ("x",), "targets": ("a", "b"), **change})  # type: ignore[arg-type]
    assert sweep_map.find_axes(cells) == sweep_map.Axes(columns, groups, fixed)


def test_weights_that_belong_to_a_model_make_no_group(tmp_path: Path) -> None:
    cells = [replace(cell, weights=f"{cell.model}.pth") for cell in sweeps.cells(3, ("x", "y"))]
    assert sweep_map.find_axes(cells) == sweep_map.Axes("target", ("exporter",), ("weights",))
    built, _ = sweep_map.maps(sweeps.sweep(cells), tmp_path)
    assert [row.note for row in built[0].rows] == [f"{model}.pth" for model in sweeps.MODELS[:3]]


def test_groups_are_folded_before_models(tmp_path: Path) -> None:
    batches = tuple(Range(size, size, size) for size in range(1, 21))
    sweep = sweeps.sweep(sweeps.cells(12, batches=batches))
    built, folded = sweep_map.maps(sweep, tmp_path)
    assert [shown.title for shown in built] == ["torchscript", "dynamo"]
    assert "a square stands for the cells of every batch" in folded
    counts = [re.fullmatch(r"(\d+) of 20", square.words) for square in squares(sweep, tmp_path)]
    passed = [int(match[1]) for match in counts if match]
    assert len(passed) == 120
    assert sum(passed) == sweep.count(CellState.PASSED)


def test_a_large_sweep_keeps_the_models_that_fail_and_counts_every_cell(tmp_path: Path) -> None:
    cells = sweeps.cells(500, ("auto",))
    results = [sweeps.passed(cell, Random(0)) for cell in cells]
    results[-1] = sweeps.ended(cells[-1], CellState.REFUSED, "no")
    (shown,), folded = sweep_map.maps(sweeps.of(results), tmp_path)
    assert [row.model for row in shown.rows][-2:] == ["model_0499", "all other models"]
    assert len(shown.rows) == 61
    assert "the last row for 440 more models" in folded
    assert shown.counts == "2,499 of 2,500 passed"
    last = [square.words for square in shown.rows[-1].squares if square]
    assert last == ["440 of 440"] * 5


def test_the_size_of_the_page_is_bounded(tmp_path: Path) -> None:
    small, large = (
        sweep_page.render(
            sweeps.sweep(sweeps.cells(models, ("auto",), targets=[f"t{number}" for number in range(15)])), tmp_path
        )
        for models in (110, 250)
    )
    assert len(large) < 1.25 * len(small), "2.3 times the cells"
    assert "The sweep is large" in large


@pytest.mark.parametrize(
    ("second", "third", "overlaps"),
    [
        ((10, 20, True), (20, 30, False), 0),
        ((9, 20, False), (20, 30, False), 1),
        ((0, 9, False), (11, 12, True), 1),
        ((12, 20, False), (15, 30, True), 1),
    ],
)
def test_work_beside_a_timed_cell_is_reported(
    tmp_path: Path, second: tuple[float, float, bool], third: tuple[float, float, bool], overlaps: int
) -> None:
    machine = Machine("alpha", "cpu")
    results = [
        replace(
            sweeps.passed(Cell(name, name), Random(0)),
            started=start,
            ended=end,
            timed=timed,
            machine=machine,
            seconds=1,
        )
        for name, (start, end, timed) in zip("abc", ((0, 10, True), second, third), strict=True)
    ]
    timing = sweep_rows.timing(sweeps.of(results))
    assert len(timing.overlaps) == overlaps
    text = read(sweeps.of(results), tmp_path).text
    assert ("✕ Other work ran on the same machine" in text) == bool(overlaps)
    assert ("✓ No other cell ran on the same machine" in text) != bool(overlaps)
    elsewhere = [replace(result, machine=Machine(result.cell.name, "cpu")) for result in results]
    assert not sweep_rows.timing(sweeps.of(elsewhere)).overlaps


def test_untimed_cells_may_overlap() -> None:
    results = [
        replace(sweeps.passed(Cell(name, name), Random(0)), started=0, ended=9, timed=False, machine=Machine("m", ""))
        for name in "ab"
    ]
    assert sweep_rows.timing(sweeps.of(results)) == sweep_rows.Timing(0, 2, ())


def test_fronts_are_those_of_one_machine_and_hold_only_cells_that_pass() -> None:
    drawn, left_out = sweep_pareto.fronts(hundred())
    assert not left_out
    assert {front.where for front in drawn} == {"On alpha, default batch", "On beta, default batch"}
    assert {front.vertical for front in drawn} == {"size, MB", "largest error"}
    for front in drawn:
        for point in front.front:
            better = [
                other
                for other in front.points
                if other.passed and other.latency < point.latency and other.value < point.value
            ]
            assert not better
        assert all(point.passed for point in front.front)


def test_cells_with_the_same_file_are_one_point() -> None:
    cells = sweeps.cells(1, ("auto",))
    results = [replace(sweeps.passed(cell, Random(0)), machine=Machine("m", "")) for cell in cells]
    drawn, _ = sweep_pareto.fronts(sweeps.of(results))
    assert [len(front.points) for front in drawn] == [1, 1]


def test_a_speed_up_without_a_verdict_is_not_shown(tmp_path: Path) -> None:
    result = sweeps.passed(Cell("a", "m"), Random(0))
    unsure = replace(result, speeds=(replace(result.speeds[0], verdict=SpeedVerdict.NO_VERDICT),))
    page = read(sweeps.of([unsure]), tmp_path)
    assert "No cell has a speed-up with a verdict." in page.text
    (square,) = squares(sweeps.of([unsure]), tmp_path)
    assert square.tone == "heat0"
    assert not any("×" in figure for figure in square.figures)
    assert "speed: no verdict" in square.figures


@pytest.mark.parametrize(
    "folder", ["/etc", "../other", "a/../../other", "", "a\0b", "javascript:alert(1)", 'a" onclick="x', "a" * 300]
)
def test_a_link_stays_in_the_folder_of_the_sweep(tmp_path: Path, folder: str) -> None:
    result = replace(sweeps.passed(Cell("a", "m"), Random(0)), folder=folder)
    made = tmp_path / "sweep"
    outside = tmp_path / "other"
    outside.mkdir()
    (outside / PAGE).touch()
    if folder == "/etc":
        folder = str(outside)
        result = replace(result, folder=folder)
    if folder.startswith(("java", 'a"')):
        (made / folder).mkdir(parents=True)
        (made / folder / PAGE).touch()
    made.mkdir(exist_ok=True)
    page = read(sweeps.of([result]), made)
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a" and "href" in attributes]
    assert all(link.startswith(("#", "./")) and ".." not in link for link in links)
    assert (len([link for link in links if PAGE in link]) > 0) == folder.startswith(("java", 'a"'))
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]


def poisoned(text: str) -> Sweep:
    """A sweep with a text wherever text can be: one cell that passed, one that did not."""
    cell = Cell(text, text, weights=text, exporter=text, target=text, data=text)
    pending = (Pending(text, text, text, text),)
    machine = Machine(text, text, (text,))
    good = replace(sweeps.passed(cell, Random(0)), pending=pending, machine=machine, folder=text)
    bad = sweeps.ended(replace(cell, model=f"{text}2"), CellState.REFUSED, text, text)
    return replace(sweeps.of([good, bad]), versions={text: text}, options={text: text})


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    draw.one_of(draw.text(max_size=30), draw.sampled_from([hostile.TEXT, "{{ 7*7 }}", "<script>x</script>", "$x^$"]))
)
def test_foreign_text_is_escaped(tmp_path: Path, text: str) -> None:
    written = sweep_page.render(poisoned(text), tmp_path)
    page = Reader(written)
    assert not {"script", "b\\"} & {tag for tag, _ in page.tags}
    assert "<script" not in written
    assert not re.search(r"(?<!\d)49(?!\d)", page.text) or "49" in text
    assert not [*hostile.find_harm(written)]
    written.encode()


def test_the_page_has_no_scripts_and_no_external_resources(tmp_path: Path) -> None:
    text = sweep_page.render(hundred(), sweeps.store(tmp_path, hundred()))
    page = Reader(text)
    assert not {"script", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in page.tags}
    links = [attributes[name] for _, attributes in page.tags for name in ("src", "href") if name in attributes]
    assert all(link.startswith(("#", "data:", "./")) for link in links)
    assert "@import" not in text
    assert text == sweep_page.render(hundred(), tmp_path), "rendering is deterministic"


def test_both_files_are_written_and_an_interrupted_write_keeps_the_previous_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = sweep_page.write_pages(hundred(), tmp_path)
    assert page == tmp_path / "sweep.html"
    assert len((tmp_path / "sweep.csv").read_text().splitlines()) == 121
    before = page.read_bytes()

    def interrupt(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        sweep_page.write_pages(sweeps.sweep(sweeps.cells(1)), tmp_path)
    assert page.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sweep.csv", "sweep.html"]
