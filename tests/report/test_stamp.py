"""A page is current until something that it shows changes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from deploytool.report import html, stamp
from deploytool.results.artifact import PAGE
from tests.report import variants
from tests.report.variants import written


def test_a_new_page_is_current(run_copy: Path) -> None:
    assert not stamp.is_current(run_copy)
    html.write(run_copy)
    assert stamp.is_current(run_copy)


def test_a_change_of_anything_shown_makes_the_page_stale(run_copy: Path) -> None:
    html.write(run_copy)
    variants.rewrite(run_copy, replace(written(run_copy), margin=0.5))
    assert not stamp.is_current(run_copy)
    html.write(run_copy)
    variants.bench(run_copy)
    assert not stamp.is_current(run_copy)
    html.write(run_copy)
    receipt = run_copy / "fp16" / "receipt.json"
    record = json.loads(receipt.read_text())
    receipt.write_text(json.dumps({**record, "seconds": 99.0}))
    assert not stamp.is_current(run_copy)


def test_a_moved_run_needs_a_new_page(run_copy: Path) -> None:
    html.write(run_copy)
    assert not stamp.is_current(run_copy.rename(run_copy.with_name("moved")))


def test_a_foreign_page_is_not_current(run_copy: Path) -> None:
    (run_copy / PAGE).write_text("<html></html>")
    assert not stamp.is_current(run_copy)
    (run_copy / PAGE).write_bytes(b"\xff\xfe" * 3000)
    assert not stamp.is_current(run_copy)
