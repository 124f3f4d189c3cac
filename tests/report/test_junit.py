"""JUnit XML: what Jenkins and GitLab read, a case for every check, and failures exactly where the verdict has them."""

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


def overflowing(sound: Report) -> Report:
    return replace(sound, reach=Fp16Range("/node", 1e38, (), Weights(1, 0, 0)))


def well_formed(text: str) -> Xml.Element:
    """Reads a document and holds it against the common layout."""
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
        assert len(set(names)) == len(names), "two cases of one name"
        for case in suite:
            assert (case.tag, set(case.attrib)) == ("testcase", CASE)
            assert [each.tag for each in case] in ([], ["failure"], ["skipped"], ["system-out"])
            assert all(each.attrib["message"] for each in case if each.tag != "system-out")
    for name in ("tests", "failures", "errors", "skipped"):
        assert int(root.attrib[name]) == sum(int(suite.attrib[name]) for suite in root)
    return root


def test_a_case_for_every_check_and_what_is_pending_is_skipped(finished: Path) -> None:
    report = written(finished)
    root = well_formed(junit.text(report))
    parity = root.find("testsuite[@name='parity']")
    assert parity is not None
    checks = sum(len(comparison.checks) for comparison in report.comparisons)
    assert len(parity) == checks + sum(comparison.status != Status.MEASURED for comparison in report.comparisons)
    (waiting,) = parity.findall("testcase/skipped")
    assert waiting.attrib["message"] == "built, not run"
    assert root.attrib["failures"] == "0"
    proof = root.find("testsuite[@name='proof']")
    assert proof is not None
    assert report.proof is not None
    assert len(proof) == sum(len(family.power) for family in report.proof.families)


@pytest.mark.parametrize("change", [*variants.ENDINGS, overflowing])
def test_it_fails_where_the_verdict_does(finished: Path, change: Change) -> None:
    report = change(written(finished))
    root = well_formed(junit.text(report))
    assert (root.attrib["failures"] != "0") == (not verdict.conclude(report, finished).held)


def test_a_planted_fault_is_a_failure_with_its_figures(failing: Path) -> None:
    root = well_formed(junit.text(written(failing)))
    failed = [case for case in root.iter("testcase") if case.find("failure") is not None]
    assert any(
        "simplify/model.onnx" in case.attrib["name"] and "against translate" in case.attrib["name"] for case in failed
    )
    assert all("tolerated" in case[0].attrib["message"] for case in failed)


def test_what_is_to_be_built_elsewhere_is_skipped_with_its_reason(finished: Path) -> None:
    root = well_formed(junit.text(variants.pending(written(finished))))
    targets = root.find("testsuite[@name='targets']")
    assert targets is not None
    assert [case.attrib["name"] for case in targets] == ["orin", "this"]
    assert "only on the GPU it serves" in targets[0][0].attrib["message"]


def test_what_was_left_out_is_skipped_and_not_passed(finished: Path) -> None:
    skipped = {(case.group, case.skipped) for case in junit.cases(variants.bare(written(finished))) if case.skipped}
    assert {("proof", "none was planted"), ("speed", "not timed")} <= skipped


def test_any_words_are_escaped_and_what_xml_cannot_hold_is_left_out(finished: Path) -> None:
    report = replace(variants.hostile(written(finished)), model=f"{HOSTILE}\x00\x1b[31m\ud800")
    text = junit.text(report)
    text.encode()
    assert "<script>" not in text
    root = well_formed(text)
    assert HOSTILE in root.attrib["name"]


def test_it_is_written_whole_or_not_at_all(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "new" / "checks.xml"
    junit.write(place, written(finished))
    before = place.read_bytes()
    well_formed(before.decode())

    def fails(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fails)
    with pytest.raises(BadInput, match="No space left"):
        junit.write(place, variants.broken(written(finished)))
    assert place.read_bytes() == before


def test_a_place_that_cannot_be_written_is_bad_input(finished: Path) -> None:
    with pytest.raises(BadInput, match="cannot write /proc/nowhere"):
        junit.write(Path("/proc/nowhere/checks.xml"), written(finished))
