"""Device results are stored with the run whose bundle they are about, and shown on its page."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from deploytool import serde
from deploytool.bundle.manifest import MANIFEST_FILE, manifest_digest
from deploytool.device.candidates import Tier
from deploytool.device.probe import Attempt, ProbeResult
from deploytool.device.verify import Verification
from deploytool.device.worker import Trial
from deploytool.errors import BadInput
from deploytool.report import device_results, html, run_data, stamp
from deploytool.results import report
from tests.report import variants


@pytest.fixture
def home(run_copy: Path, packed: Path) -> Path:
    """A run with a packed bundle."""
    shutil.copytree(packed, run_copy / "pack" / "bundle")
    return run_copy


def document(home: Path, path: Path, machine: str = "Jetson Orin <8>") -> Path:
    """Writes a device result: the engine was measured, and ONNX Runtime with CUDA failed."""
    check = next(comparison for comparison in variants.written(home).comparisons if comparison.stage == "fp16").checks[
        -1
    ]
    digest = manifest_digest(home / "pack" / "bundle")
    attempts = (
        ProbeResult(Tier.ORT_CUDA, "fp16.onnx", Attempt.FAILED, "no such provider"),
        ProbeResult(Tier.ENGINE, "model.plan", Attempt.MEASURED, trial=Trial(check, 1.25, 1.5, 100, 1)),
    )
    result = Verification("bundle", "tiny", digest, "0" * 64, 1, machine, (), attempts, Tier.ENGINE)
    path.write_text(serde.text({"result": result, "error": None}))
    return path


def test_a_stored_result_is_on_the_page(home: Path, tmp_path: Path) -> None:
    html.write(home)
    stored = device_results.store(home, document(home, tmp_path / "orin.json"))
    assert stored == home / "devices" / "Jetson_Orin_8.json"
    assert not stamp.is_current(home)
    text = html.render(run_data.read(home))
    assert "Results from devices" in text
    assert "Jetson Orin &lt;8&gt;" in text
    assert "1.25 ms" in text
    assert "measured, selected" in text
    assert "no such provider" in text


def test_a_newer_result_of_a_machine_replaces_the_older_one(home: Path, tmp_path: Path) -> None:
    for _ in range(2):
        device_results.store(home, document(home, tmp_path / "orin.json"))
    device_results.store(home, document(home, tmp_path / "other.json", machine="RTX 4090"))
    assert [result.machine for result in device_results.read(home)] == ["Jetson Orin <8>", "RTX 4090"]


def test_a_result_of_another_bundle_is_refused(home: Path, tmp_path: Path) -> None:
    result = document(home, tmp_path / "orin.json")
    device_results.store(home, result)
    manifest = home / "pack" / "bundle" / MANIFEST_FILE
    manifest.write_text(manifest.read_text() + " ")
    assert device_results.read(home) == ()
    with pytest.raises(BadInput, match="is about another bundle"):
        device_results.store(home, result)
    with pytest.raises(BadInput, match="is not the output of a device"):
        device_results.store(home, home / "validate" / "report.json")
    assert report.read(home / "validate" / "report.json")
