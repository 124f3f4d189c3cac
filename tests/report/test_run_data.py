"""What a page shows of what lies beside a report: only while it was found in the very files of the run."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploytool import serde
from deploytool.errors import BadInput
from deploytool.report import html
from deploytool.results import blame, report
from deploytool.results.report import Report
from tests.report import variants
from tests.report.reading import ids, read
from tests.report.variants import written


def test_what_blame_found_is_where_it_failed(run_copy: Path) -> None:
    variants.rewrite(run_copy, variants.broken(written(run_copy)))
    variants.blame(run_copy, wrong=True)
    page = read(run_copy)
    assert "rewrite strays from simplify first in depthwise, seen at Conv /depthwise/Conv" in page.text
    assert f"deploytool blame {run_copy} --reduce" in page.text
    assert "plot-strip0-title" in ids(page)


def test_without_blame_the_page_says_how_to_get_the_strip(finished: Path) -> None:
    page = read(finished)
    assert "plot-strip0-title" not in ids(page)
    assert f"deploytool blame {finished}" in page.text


def test_blame_of_other_graphs_is_not_shown(run_copy: Path) -> None:
    variants.blame(run_copy, wrong=True)
    kept = run_copy / blame.FILE
    kept.write_text(kept.read_text().replace(blame._graphs(run_copy)["fp16"], "0" * 64))
    assert "plot-strip0-title" not in ids(read(run_copy))


def test_bench_is_shown_while_its_files_are_those_of_the_run(run_copy: Path) -> None:
    variants.bench(run_copy)
    page = read(run_copy)
    assert {"plot-latencies-title", "plot-sweep-title", "bench-table"} <= set(ids(page))
    assert "At batch 8 the machine was too uneven to compare by the clock: it was busy" in page.text
    variants.bench(run_copy, batches=(4,))
    assert "plot-sweep-title" not in ids(read(run_copy))
    (run_copy / "fp16" / "model.onnx").write_bytes(b"another")
    page = read(run_copy)
    assert "plot-latencies-title" not in ids(page)
    assert f"deploytool bench {run_copy}" in page.text


@pytest.mark.parametrize("kept", ["", "{}", "[1]", '{"sweeps": 3, "files": {}}', '{"sweeps": [{}], "files": {}}'])
def test_a_bench_that_cannot_be_read_is_none(run_copy: Path, kept: str) -> None:
    (run_copy / "bench.json").write_text(kept)
    assert "bench-table" not in ids(read(run_copy))


def test_a_run_that_lost_its_golden_images_still_has_a_page(run_copy: Path) -> None:
    (run_copy / "golden" / "golden.npz").write_bytes(b"rotten")
    assert "Provenance" in read(run_copy).text
    (run_copy / "golden" / "golden.npz").unlink()
    assert "Provenance" in read(run_copy).text


def test_a_report_alone_is_enough(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_bytes(variants.at(finished).read_bytes())
    page = read(tmp_path)
    assert "pass for all that ran here" in page.text
    assert "missing" in page.text


def test_no_report_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="holds no report"):
        html.write(tmp_path)
    (tmp_path / "report.json").write_text('{"schema": "deploytool.results.report/1"}')
    with pytest.raises(BadInput, match="no report of this version"):
        html.write(tmp_path)


def test_a_report_of_an_older_version_is_refused_with_what_to_do(finished: Path, tmp_path: Path) -> None:
    older = variants.at(finished).read_text().replace(report.SCHEMA, "deploytool.results.report/3")
    (tmp_path / "report.json").write_text(older)
    with pytest.raises(BadInput, match="no report of this version") as refused:
        html.write(tmp_path)
    assert refused.value.remedy == "export again to write a new one"


def test_an_unknown_status_is_refused(finished: Path, tmp_path: Path) -> None:
    spoiled = variants.at(finished).read_text().replace('"status": "measured"', '"status": "Measured"')
    (tmp_path / "report.json").write_text(spoiled)
    with pytest.raises(
        serde.Malformed, match="status is 'Measured', and should be one of measured, built, not run, unav"
    ):
        serde.read(Report, tmp_path / "report.json")
