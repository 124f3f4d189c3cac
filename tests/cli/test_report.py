"""`deploytool report`: page, JUnit XML and schema, and the page that `export` and `blame` write."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from xml.etree import ElementTree as Xml

import jsonschema
import pytest

from tests.conftest import Command, modules_of
from tests.report import variants
from tests.report.variants import written

MODEL = "mobilenet_v1_cifar"
QUICK = ("--images", "4", "--seconds", "0.1", "--rewrite", "original")


def test_a_run_gets_a_page_and_junit_xml(deploytool: Command, run_copy: Path, tmp_path: Path) -> None:
    done = deploytool("report", str(run_copy), "--junit", "checks.xml", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == {"page": str(run_copy / "report.html"), "junit": "checks.xml", "error": None}
    assert "<title>tiny: pass for all that ran here</title>" in (run_copy / "report.html").read_text()
    assert Xml.parse(tmp_path / "checks.xml").getroot().attrib["failures"] == "0"  # written by deploytool
    shown = deploytool("report", str(run_copy), "--junit", "checks.xml")
    assert shown.stdout.splitlines()[-1].endswith(" checks.xml")


def test_several_runs_get_one_page(deploytool: Command, finished: Path, run_copy: Path, tmp_path: Path) -> None:
    done = deploytool("report", str(finished), str(run_copy), "--page", "several.html")
    assert (done.returncode, done.stdout) == (0, "Report: several.html\n")
    assert "2 runs compared" in (tmp_path / "several.html").read_text()
    default = deploytool("report", str(finished), str(run_copy))
    assert default.stdout == "Report: artifacts/report.html\n"
    assert not (finished / "report.html").exists()


def test_open_needs_a_graphical_browser(deploytool: Command, run_copy: Path, tmp_path: Path) -> None:
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {tmp_path}/opened\n')
    browser.chmod(0o755)
    done = deploytool("report", str(run_copy), "--open", DISPLAY=":7", BROWSER=f"{browser} %s")
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "opened").read_text().strip() == (run_copy / "report.html").as_uri()
    without = deploytool("report", str(run_copy), "--open", DISPLAY="", WAYLAND_DISPLAY="", BROWSER=f"{browser} %s")
    assert without.returncode == 0
    assert "no graphical browser" in without.stderr


def test_the_schema_is_printed(deploytool: Command, finished: Path) -> None:
    done = deploytool("report", "--schema")
    assert done.returncode == 0
    jsonschema.validate(json.loads(variants.report_path(finished).read_text()), json.loads(done.stdout))


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ((), "no run given"),
        (("nowhere",), "nowhere has no report"),
        (("a", "b", "--junit", "x.xml"), "--junit works with one run only"),
        (("a", "--page", "x.html"), "--page works with several runs only"),
    ],
)
def test_bad_input_is_reported_in_one_line(deploytool: Command, arguments: tuple[str, ...], problem: str) -> None:
    done = deploytool("report", *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(f"deploytool: {problem}")
    assert "Traceback" not in done.stderr


def test_export_writes_the_page_also_after_a_failure(deploytool: Command, tmp_path: Path) -> None:
    done = deploytool("export", MODEL, *QUICK, "--min-speedup", "1000", "--out", "run", "--junit", "checks.xml")
    assert done.returncode == 4
    assert "Verdict: too slow." in done.stdout
    assert "Report: run/report.html" in done.stdout
    page = (tmp_path / "run" / "report.html").read_text()
    assert f"<title>{MODEL}: too slow</title>" in page
    assert int(Xml.parse(tmp_path / "checks.xml").getroot().attrib["failures"]) > 0  # written by deploytool
    before = (tmp_path / "run" / "report.html").stat().st_mtime_ns
    again = deploytool("export", MODEL, *QUICK, "--min-speedup", "1000", "--out", "run")
    assert again.returncode == 4
    assert (tmp_path / "run" / "report.html").stat().st_mtime_ns == before, (
        "the page was written again without a change"
    )


def test_blame_adds_its_plot_to_the_page(deploytool: Command, run_copy: Path) -> None:
    done = deploytool("blame", str(run_copy))
    assert done.returncode == 0, done.stderr
    assert "plot-strip0-title" in (run_copy / "report.html").read_text()
    shown = deploytool("show", str(run_copy))
    assert f"Report: {run_copy / 'report.html'}" in shown.stdout


def test_the_printed_verdict_has_the_finding_of_blame(deploytool: Command, run_copy: Path) -> None:
    variants.rewrite(run_copy, variants.broken(written(run_copy)))
    variants.blame(run_copy, wrong=True)
    output = deploytool("show", str(run_copy)).stdout
    assert "also rewrite deviates from simplify first in depthwise" in output
    assert f": deploytool blame {run_copy} --reduce" in output


def test_an_up_to_date_page_is_not_drawn_again(run_copy: Path) -> None:
    program = "from pathlib import Path\nfrom deploytool.report import update\nfrom deploytool.results import report\n"
    program += f"run = Path({str(run_copy)!r})\nupdate.refresh(report.read(run / 'validate' / 'report.json'), run)"
    assert {"matplotlib", "jinja2"} <= modules_of(program)
    assert not {"matplotlib", "jinja2", "torch"} & modules_of(program)
    shutil.rmtree(run_copy)
