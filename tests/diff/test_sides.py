"""What is read of a run, a bundle and a device's document, and what is none of them."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from deploytool import serde
from deploytool.bundle.manifest import all_files, manifest_digest, read_manifest, write_manifest
from deploytool.device import probe, verify
from deploytool.device.environment import Environment
from deploytool.device.verify import VerifyOptions
from deploytool.diff import compare, sides
from deploytool.errors import BadInput, Refused
from deploytool.results import report
from tests.conftest import modules_of

HALVED = "fp16/model.onnx"


@pytest.fixture(scope="module")
def brought(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `bench` prints with --json, saved to a file."""
    checked = verify.check_integrity(packed, VerifyOptions())
    found = verify.verify(
        checked,
        Environment("linux", "x86_64"),
        lambda way: probe.probe(way, checked.folder, checked.manifest, 0.1),
        every=True,
    )
    path = tmp_path_factory.mktemp("home") / "home.json"
    path.write_text(serde.text({"result": found, "error": None}))
    return path


def test_a_run_tells_its_report_its_choices_and_its_files(finished: Path) -> None:
    found, written = sides.read(finished), report.read(finished / "validate" / "report.json")
    assert (found.kind, found.model, found.machine) == ("run", "tiny", written.device)
    assert {"weights", "export exporter", "fp16 io", "version of torch", f"bytes of {HALVED}"} <= set(found.facts)
    comparisons = {
        f"{comparison.stage}/{comparison.file}": comparison
        for comparison in written.comparisons
        if comparison.runner not in ("fp32_compute", "fp16_emulation")
    }
    for place, comparison in comparisons.items():
        if comparison.checks:
            assert found.figures["parity"][place].value == comparison.checks[-1].parity.max_error
        assert found.figures["size"][place].value == (finished / place).stat().st_size
    (speed,) = (speed for speed in written.speeds if speed.stage == "fp16")
    timed = found.figures["speedup"][HALVED]
    assert (timed.value, timed.low, timed.high) == (speed.ratio, speed.low, speed.high)
    assert found.figures["p50"][HALVED].value == speed.latency_ms
    assert set(found.figures["caught"]) == {"graph check", "FP16 check"}
    assert {"noise", "tolerated", "top1", "reach", "layers", "half", "build", "smallest"} <= set(found.figures)
    assert f"{HALVED} in FP16 arithmetic" in found.figures["parity"]


def test_a_report_alone_tells_less_and_nothing_else(finished: Path) -> None:
    whole, alone = sides.read(finished), sides.read(finished / "validate" / "report.json")
    assert set(alone.facts) < set(whole.facts)
    for quantity in set(whole.figures) - {"size"}:
        assert alone.figures[quantity] == whole.figures[quantity]


def test_a_bundle_tells_its_manifest(packed: Path) -> None:
    found, manifest = sides.read(packed), read_manifest(packed)
    assert (found.kind, found.machine) == ("bundle", "")
    assert found.facts["weights"] == manifest.provenance.weights
    assert found.facts["digest"] == manifest_digest(packed)
    assert found.figures["size"]["all files"].value == sum(file.size for file in all_files(manifest))
    (engine,) = manifest.engines
    assert found.figures["size"][f"engine tensorrt_rtx for {' '.join(engine.capabilities)}"].value == engine.file.size
    assert found.figures["tolerated"]["fp16"].value == manifest.tolerances["fp16"].max_error


def test_a_device_tells_what_it_tried(brought: Path, packed: Path) -> None:
    found = sides.read(brought)
    assert found.kind == "device"
    assert found.machine
    assert found.facts["serves"] == "ORT CPU"
    assert found.facts["ORT CPU model.onnx"] == "measured"
    assert found.facts["digest"] == manifest_digest(packed)
    shown = json.loads(brought.read_text())["result"]["tried"][-1]["trial"]
    assert found.figures["p90"]["ORT CPU"].value == shown["p90_ms"]
    assert found.figures["parity"]["ORT CPU"].value == shown["check"]["parity"]["max_error"]


def test_a_bundle_and_what_a_device_brought_home_agree_about_what_it_was(brought: Path, packed: Path) -> None:
    assert compare(sides.read(packed), sides.read(brought)).facts == ()


def test_another_bundle_is_another(packed: Path, brought: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(packed, tmp_path / "other"))
    write_manifest(other, dataclasses.replace(read_manifest(other), sequence=9))
    names = ["sequence", "content_digest", "digest"]
    assert [changed.name for changed in compare(sides.read(packed), sides.read(other)).facts] == names
    assert [changed.name for changed in compare(sides.read(other), sides.read(brought)).facts] == names


def test_each_against_itself_is_the_same(finished: Path, packed: Path, brought: Path) -> None:
    for path in (finished, finished / "validate" / "report.json", packed, brought):
        assert compare(sides.read(path), sides.read(path)).none


def test_a_planted_change_is_all_that_is_seen(run_copy: Path, finished: Path) -> None:
    path = run_copy / "validate" / "report.json"
    written = report.read(path)
    (comparison,) = (
        comparison
        for comparison in written.comparisons
        if (comparison.stage, comparison.runner) == ("export", "onnxruntime")
    )
    worse = dataclasses.replace(comparison.checks[-1].parity, max_error=3 * comparison.checks[-1].parity.max_error)
    planted = dataclasses.replace(
        comparison, checks=(*comparison.checks[:-1], dataclasses.replace(comparison.checks[-1], parity=worse))
    )
    comparisons = tuple(planted if each is comparison else each for each in written.comparisons)
    report.write(path, dataclasses.replace(written, comparisons=comparisons))
    found = compare(sides.read(finished), sides.read(run_copy))
    assert [(shift.quantity, shift.place) for shift in found.shifts] == [
        ("parity", "export/model.onnx"),
        ("noise", "export/model.onnx"),
    ]
    assert all(shift.factor == pytest.approx(3.0) for shift in found.shifts)
    assert found.facts == ()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is no JSON document"),
        ("[" * 100_000, "is no JSON document"),
        ("\xff", "is no JSON document"),
        ("[]", "is not what a device prints"),
        ("{}", "is not what a device prints"),
        ('{"result": null, "error": {"problem": "refused"}}', "is not what a device prints"),
        ('{"result": {"name": "m"}, "error": null}', "is not what a device prints"),
        ('{"schema": "deploytool.results.report/1"}', "is no report of this version"),
    ],
)
def test_what_is_none_of_them(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "a.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(BadInput, match=problem):
        sides.read(tmp_path / "a.json")


def test_an_empty_place_and_a_broken_manifest(tmp_path: Path, packed: Path) -> None:
    with pytest.raises(BadInput, match="there is no"):
        sides.read(tmp_path / "nowhere")
    with pytest.raises(BadInput, match="neither a finished run nor a bundle"):
        sides.read(tmp_path)
    (tmp_path / "manifest.json").write_bytes((packed / "manifest.json").read_bytes()[:-2])
    with pytest.raises(Refused):
        sides.read(tmp_path)


def test_reading_needs_no_torch() -> None:
    assert not {"torch", "onnx", "onnxruntime", "typer"} & modules_of("import deploytool.diff.sides")
