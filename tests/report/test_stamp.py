"""A page is drawn again when something that it shows has changed, and not otherwise."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from deploytool.report import PAGE, html, stamp
from tests.report import variants
from tests.report.variants import written


def test_a_fresh_page_holds(run_copy: Path) -> None:
    assert not stamp.holds(run_copy)
    html.write(run_copy)
    assert stamp.holds(run_copy)


def test_what_a_page_shows_makes_it_stale(run_copy: Path) -> None:
    html.write(run_copy)
    variants.rewrite(run_copy, replace(written(run_copy), margin=0.5))
    assert not stamp.holds(run_copy)
    html.write(run_copy)
    variants.bench(run_copy)
    assert not stamp.holds(run_copy)
    html.write(run_copy)
    sealed = run_copy / "fp16" / "receipt.json"
    told = json.loads(sealed.read_text())
    sealed.write_text(json.dumps({**told, "seconds": 99.0}))
    assert not stamp.holds(run_copy)


def test_a_run_that_moved_gets_a_page_with_its_new_name(run_copy: Path) -> None:
    html.write(run_copy)
    assert not stamp.holds(run_copy.rename(run_copy.with_name("moved")))


def test_somebody_elses_page_does_not_hold(run_copy: Path) -> None:
    (run_copy / PAGE).write_text("<html></html>")
    assert not stamp.holds(run_copy)
    (run_copy / PAGE).write_bytes(b"\xff\xfe" * 3000)
    assert not stamp.holds(run_copy)
