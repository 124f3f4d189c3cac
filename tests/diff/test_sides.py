"""Reading a run, a report, a bundle and a device result, and rejecting anything else."""

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
from deploytool.diff import sides
from deploytool.diff.compare import compare
from deploytool.errors import BadInput, Refused
from deploytool.results import report
from tests.conftest import modules_of

FP16_GRAPH = "fp16/model.onnx"


@pytest.fixture(scope="module")
def device_result(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of `bench --json`, saved to a file."""
    verified = verify.check_integrity(packed, VerifyOptions())
    result = verify.verify(
        verified,
        Environment("linux", "x86_64"),
        lambda candidate: probe.probe(candidate, verified.folder, verified.manifest, 0.1),
        every=True,
    )
    path = tmp_path_factory.mktemp("device") / "result.json"
    path.write_text(serde.text({"result": result, "error": None}))
    return path


def test_a_run_has_the_facts_of_its_report_its_options_and_its_files(finished: Path) -> None:
    side, written = sides.read(finished), report.read(finished / "validate" / "report.json")
    assert (side.kind, side.model, side.machine) == ("run", "tiny", written.device)
    assert {"weights", "export exporter", "fp16 io", "version of torch", f"bytes of {FP16_GRAPH}"} <= set(side.facts)
    comparisons = {
        f"{comparison.stage}/{comparison.file}": comparison
        for comparison in written.comparisons
        if comparison.runner not in ("fp32_compute", "fp16_emulation")
    }
    for subject, comparison in comparisons.items():
        if comparison.checks:
            assert side.figures["parity"][subject].value == comparison.checks[-1].parity.max_error
        assert side.figures["size"][subject].value == (finished / subject).stat().st_size
    (speed,) = (speed for speed in written.speeds if speed.stage == "fp16")
    timed = side.figures["speedup"][FP16_GRAPH]
    assert (timed.value, timed.low, timed.high) == (speed.ratio, speed.low, speed.high)
    assert side.figures["p50"][FP16_GRAPH].value == speed.latency_ms
    assert set(side.figures["caught"]) == {"graph check", "FP16 check"}
    assert {
        "noise",
        "tolerance",
        "top1",
        "fp16_largest",
        "layers",
        "fp16_layers",
        "build_time",
        "smallest_caught",
    } <= set(side.figures)
    assert f"{FP16_GRAPH} in FP16 arithmetic" in side.figures["parity"]


def test_a_report_alone_has_fewer_facts_and_the_same_figures(finished: Path) -> None:
    whole, alone = sides.read(finished), sides.read(finished / "validate" / "report.json")
    assert set(alone.facts) < set(whole.facts)
    for quantity in set(whole.figures) - {"size"}:
        assert alone.figures[quantity] == whole.figures[quantity]


def test_a_bundle_has_the_facts_of_its_manifest(packed: Path) -> None:
    side, manifest = sides.read(packed), read_manifest(packed)
    assert (side.kind, side.machine) == ("bundle", "")
    assert side.facts["weights"] == manifest.provenance.weights
    assert side.facts["digest"] == manifest_digest(packed)
    assert side.figures["size"]["all files"].value == sum(file.size for file in all_files(manifest))
    (engine,) = manifest.engines
    assert side.figures["size"][f"engine tensorrt_rtx for {' '.join(engine.capabilities)}"].value == engine.file.size
    assert side.figures["tolerance"]["fp16"].value == manifest.tolerances["fp16"].max_error


def test_a_device_result_has_the_figures_of_its_backends(device_result: Path, packed: Path) -> None:
    side = sides.read(device_result)
    assert side.kind == "device"
    assert side.machine
    assert side.facts["selected"] == "ORT CPU"
    assert side.facts["ORT CPU model.onnx"] == "measured"
    assert side.facts["digest"] == manifest_digest(packed)
    tried = json.loads(device_result.read_text())["result"]["tried"]
    (shown,) = (each["trial"] for each in tried if each["tier"] == "ORT CPU")
    assert side.figures["p90"]["ORT CPU"].value == shown["p90_ms"]
    assert side.figures["parity"]["ORT CPU"].value == shown["check"]["parity"]["max_error"]


def test_a_bundle_and_its_device_result_have_the_same_identity(device_result: Path, packed: Path) -> None:
    assert compare(sides.read(packed), sides.read(device_result)).facts == ()


def test_another_bundle_differs_in_its_identity(packed: Path, device_result: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(packed, tmp_path / "other"))
    write_manifest(other, dataclasses.replace(read_manifest(other), sequence=9))
    names = ["sequence", "content_digest", "digest"]
    assert [change.name for change in compare(sides.read(packed), sides.read(other)).facts] == names
    assert [change.name for change in compare(sides.read(other), sides.read(device_result)).facts] == names


def test_no_side_differs_from_itself(finished: Path, packed: Path, device_result: Path) -> None:
    for path in (finished, finished / "validate" / "report.json", packed, device_result):
        assert compare(sides.read(path), sides.read(path)).empty


def test_a_single_change_is_the_only_difference(run_copy: Path, finished: Path) -> None:
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
    comparisons = tuple(planted if item is comparison else item for item in written.comparisons)
    report.write(path, dataclasses.replace(written, comparisons=comparisons))
    difference = compare(sides.read(finished), sides.read(run_copy))
    assert [(change.quantity, change.subject) for change in difference.figures] == [
        ("parity", "export/model.onnx"),
        ("noise", "export/model.onnx"),
    ]
    assert all(change.factor == pytest.approx(3.0) for change in difference.figures)
    assert difference.facts == ()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is not a JSON document"),
        ("[" * 100_000, "is not a JSON document"),
        ("\xff", "is not a JSON document"),
        ("[]", "is not the output of a device"),
        ("{}", "is not the output of a device"),
        ('{"result": null, "error": {"problem": "refused"}}', "is not the output of a device"),
        ('{"result": {"name": "m"}, "error": null}', "is not the output of a device"),
        ('{"schema": "deploytool.report/1"}', "is not a report of this schema version"),
    ],
)
def test_other_documents_are_rejected(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "a.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(BadInput, match=problem):
        sides.read(tmp_path / "a.json")


def test_a_missing_path_an_empty_folder_and_an_invalid_manifest_are_rejected(tmp_path: Path, packed: Path) -> None:
    with pytest.raises(BadInput, match="does not exist"):
        sides.read(tmp_path / "nowhere")
    with pytest.raises(BadInput, match="neither a finished run nor a bundle"):
        sides.read(tmp_path)
    (tmp_path / "manifest.json").write_bytes((packed / "manifest.json").read_bytes()[:-2])
    with pytest.raises(Refused):
        sides.read(tmp_path)


def test_reading_imports_no_torch() -> None:
    assert not {"torch", "onnx", "onnxruntime", "typer"} & modules_of("import deploytool.diff.sides")
