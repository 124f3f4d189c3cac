"""JUnit XML: one case for every check, failures where the verdict has them, and the schema that CI servers read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as Xml

import pytest

from deploytool.errors import BadInput
from deploytool.report import junit
from deploytool.results import verdict
from deploytool.results.report import Fp16Range, Report, Weights
from deploytool.spec import Status
from tests.report import variants
from tests.report.variants import HOSTILE, written

Change = Callable[[Report], Report]
SUITE = {"name", "tests", "failures", "errors", "skipped"}
CASE = {"classname", "name", "time"}


def overflowing(report: Report) -> Report:
    return replace(report, fp16_range=Fp16Range("/node", 1e38, (), Weights(1, 0, 0)))


def well_formed(text: str) -> Xml.Element:
    """Parses a document and checks it against the common JUnit layout."""
    root = Xml.fromstring(text)
    assert root.tag == "testsuites"
    for suite in root:
        assert (suite.tag, set(suite.attrib)) == ("testsuite", SUITE)
        counted = {"tests": len(suite), "errors": 0}
        counted |= {
            word: len(suite.findall(f"testcase/{tag}"))
            for word, tag in (("failures", "failure"), ("skipped", "skipped"))
        }
        assert {name: int(suite.attrib[name]) for name in counted} == counted
        names = [case.attrib["name"] for case in suite]
        assert len(set(names)) == len(names), "two cases have the same name"
        for case in suite:
            assert (case.tag, set(case.attrib)) == ("testcase", CASE)
            assert [child.tag for child in case] in ([], ["failure"], ["skipped"], ["system-out"])
            assert all(child.attrib["message"] for child in case if child.tag != "system-out")
    for name in ("tests", "failures", "errors", "skipped"):
        assert int(root.attrib[name]) == sum(int(suite.attrib[name]) for suite in root)
    return root


def test_every_check_is_a_case_and_pending_checks_are_skipped(finished: Path) -> None:
    report = written(finished)
    root = well_formed(junit.text(report))
    parity = root.find("testsuite[@name='parity']")
    assert parity is not None
    checks = sum(len(comparison.checks) for comparison in report.comparisons)
    assert len(parity) == checks + sum(comparison.status != Status.MEASURED for comparison in report.comparisons)
    (skipped,) = parity.findall("testcase/skipped")
    assert skipped.attrib["message"] == "built, not run"
    assert root.attrib["failures"] == "0"
    faults = root.find("testsuite[@name='faults']")
    assert faults is not None
    assert report.faults is not None
    assert len(faults) == sum(len(family.by_check) for family in report.faults.families)


@pytest.mark.parametrize("change", [*variants.ENDINGS, overflowing])
def test_a_case_fails_if_and_only_if_the_verdict_does(finished: Path, change: Change) -> None:
    report = change(written(finished))
    root = well_formed(junit.text(report))
    assert (root.attrib["failures"] != "0") == (not verdict.conclude(report, finished).passed)


def test_a_failed_check_has_its_measured_value_and_limit(failing: Path) -> None:
    root = well_formed(junit.text(written(failing)))
    failed = [case for case in root.iter("testcase") if case.find("failure") is not None]
    assert any(
        "simplify/model.onnx" in case.attrib["name"] and "against export" in case.attrib["name"] for case in failed
    )
    assert all("limit" in case[0].attrib["message"] for case in failed)


def test_a_target_that_is_built_elsewhere_is_skipped_with_its_reason(finished: Path) -> None:
    root = well_formed(junit.text(variants.pending(written(finished))))
    targets = root.find("testsuite[@name='targets']")
    assert targets is not None
    assert [case.attrib["name"] for case in targets] == ["orin", "this"]
    assert "only on the target GPU" in targets[0][0].attrib["message"]


def test_measurements_that_the_user_left_out_are_skipped(finished: Path) -> None:
    skipped = {(case.group, case.skipped) for case in junit.cases(variants.bare(written(finished))) if case.skipped}
    assert {("faults", "no fault was planted"), ("speed", "not measured")} <= skipped


def test_text_is_escaped_and_characters_that_xml_forbids_are_removed(finished: Path) -> None:
    report = replace(variants.hostile(written(finished)), model=f"{HOSTILE}\x00\x1b[31m\ud800")
    text = junit.text(report)
    text.encode()
    assert "<script>" not in text
    root = well_formed(text)
    assert HOSTILE in root.attrib["name"]


def test_a_failed_write_keeps_the_previous_file(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "new" / "checks.xml"
    junit.write(path, written(finished))
    before = path.read_bytes()
    well_formed(before.decode())

    def fail(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(BadInput, match="No space left"):
        junit.write(path, variants.broken(written(finished)))
    assert path.read_bytes() == before


def test_a_path_that_cannot_be_written_is_bad_input(finished: Path) -> None:
    with pytest.raises(BadInput, match="cannot write /proc/nowhere"):
        junit.write(Path("/proc/nowhere/checks.xml"), written(finished))
