"""A page shows blame, benchmark and golden images only if they belong to the present files of the run."""

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


def test_the_finding_of_blame_is_the_failure_location(run_copy: Path) -> None:
    variants.rewrite(run_copy, variants.broken(written(run_copy)))
    variants.blame(run_copy, wrong=True)
    page = read(run_copy)
    assert "rewrite deviates from simplify first in depthwise, at Conv /depthwise/Conv" in page.text
    assert f"deploytool blame {run_copy} --reduce" in page.text
    assert "plot-strip0-title" in ids(page)


def test_without_blame_the_page_names_the_command(finished: Path) -> None:
    page = read(finished)
    assert "plot-strip0-title" not in ids(page)
    assert f"deploytool blame {finished}" in page.text


def test_blame_of_other_graphs_is_not_shown(run_copy: Path) -> None:
    variants.blame(run_copy, wrong=True)
    stored = run_copy / blame.FILE
    stored.write_text(stored.read_text().replace(blame.graph_digests(run_copy)["fp16"], "0" * 64))
    assert "plot-strip0-title" not in ids(read(run_copy))


def test_a_benchmark_is_shown_only_for_the_present_files(run_copy: Path) -> None:
    variants.bench(run_copy)
    page = read(run_copy)
    assert {"plot-latencies-title", "plot-sweep-title", "bench-table"} <= set(ids(page))
    assert "No verdict at batch 8: the machine was too uneven to compare latencies (it was busy)" in page.text
    variants.bench(run_copy, batches=(4,))
    assert "plot-sweep-title" not in ids(read(run_copy))
    (run_copy / "fp16" / "model.onnx").write_bytes(b"another")
    page = read(run_copy)
    assert "plot-latencies-title" not in ids(page)
    assert f"deploytool bench {run_copy}" in page.text


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"sweeps": 3, "files": {}}', '{"sweeps": [{}], "files": {}}'])
def test_a_malformed_benchmark_is_not_shown(run_copy: Path, text: str) -> None:
    (run_copy / "bench.json").write_text(text)
    assert "bench-table" not in ids(read(run_copy))


def test_a_run_without_golden_images_still_has_a_page(run_copy: Path) -> None:
    (run_copy / "golden" / "golden.npz").write_bytes(b"corrupt")
    assert "Provenance" in read(run_copy).text
    (run_copy / "golden" / "golden.npz").unlink()
    assert "Provenance" in read(run_copy).text


def test_a_report_alone_is_enough(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_bytes(variants.report_path(finished).read_bytes())
    page = read(tmp_path)
    assert "pass for all that ran here" in page.text
    assert "missing" in page.text


def test_no_report_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="has no report"):
        html.write(tmp_path)
    (tmp_path / "report.json").write_text('{"schema": "deploytool.report/1"}')
    with pytest.raises(BadInput, match="not a report of this schema version"):
        html.write(tmp_path)


def test_a_report_of_an_older_schema_version_is_refused_with_a_remedy(finished: Path, tmp_path: Path) -> None:
    older = variants.report_path(finished).read_text().replace(report.SCHEMA, "deploytool.report/3")
    (tmp_path / "report.json").write_text(older)
    with pytest.raises(BadInput, match="not a report of this schema version") as error:
        html.write(tmp_path)
    assert "export again" in error.value.remedy


def test_an_unknown_status_is_refused(finished: Path, tmp_path: Path) -> None:
    text = variants.report_path(finished).read_text().replace('"status": "measured"', '"status": "Measured"')
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(
        serde.Malformed, match="status is 'Measured', and should be one of measured, built, not run, unav"
    ):
        serde.read(Report, tmp_path / "report.json")
