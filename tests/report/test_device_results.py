"""What a device brought home is kept with the run whose bundle it ran, and shown on its page."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from deploytool import serde
from deploytool.bundle.manifest import MANIFEST_FILE, manifest_digest
from deploytool.device.candidates import Tier
from deploytool.device.probe import ProbeResult
from deploytool.device.verify import Verification
from deploytool.device.worker import Trial
from deploytool.errors import BadInput
from deploytool.report import device_results, html, run_data, stamp
from deploytool.results import report
from deploytool.spec import Attempt
from tests.report import variants


@pytest.fixture
def home(run_copy: Path, packed: Path) -> Path:
    """A run with its bundle."""
    shutil.copytree(packed, run_copy / "pack" / "bundle")
    return run_copy


def document(home: Path, place: Path, machine: str = "Jetson Orin <8>") -> Path:
    """What a device prints: its engine worked, ONNX Runtime's CUDA did not."""
    check = next(comparison for comparison in variants.written(home).comparisons if comparison.stage == "fp16").checks[
        -1
    ]
    digest = manifest_digest(home / "pack" / "bundle")
    tried = (
        ProbeResult(Tier.ORT_CUDA, "fp16.onnx", Attempt.FAILED, "no such provider"),
        ProbeResult(Tier.ENGINE, "model.plan", Attempt.MEASURED, trial=Trial(check, 1.25, 1.5, 100, 1)),
    )
    found = Verification("bundle", "tiny", digest, "0" * 64, 1, machine, (), tried, Tier.ENGINE)
    place.write_text(serde.text({"result": found, "error": None}))
    return place


def test_a_result_stands_on_the_page(home: Path, tmp_path: Path) -> None:
    html.write(home)
    kept = device_results.keep(home, document(home, tmp_path / "orin.json"))
    assert kept == home / "devices" / "Jetson_Orin_8.json"
    assert not stamp.holds(home)
    text = html.text(run_data.read(home))
    assert "Brought home from devices" in text
    assert "Jetson Orin &lt;8&gt;" in text
    assert "1.25 ms" in text
    assert "measured, and serves" in text
    assert "no such provider" in text


def test_a_newer_result_of_a_machine_takes_the_place_of_the_older(home: Path, tmp_path: Path) -> None:
    for _ in range(2):
        device_results.keep(home, document(home, tmp_path / "orin.json"))
    device_results.keep(home, document(home, tmp_path / "other.json", machine="RTX 4090"))
    assert [found.machine for found in device_results.read(home)] == ["Jetson Orin <8>", "RTX 4090"]


def test_a_result_of_another_bundle_is_refused(home: Path, tmp_path: Path) -> None:
    told = document(home, tmp_path / "orin.json")
    device_results.keep(home, told)
    manifest = home / "pack" / "bundle" / MANIFEST_FILE
    manifest.write_text(manifest.read_text() + " ")
    assert device_results.read(home) == ()
    with pytest.raises(BadInput, match="is about another bundle"):
        device_results.keep(home, told)
    with pytest.raises(BadInput, match="is not what a device prints"):
        device_results.keep(home, home / "validate" / "report.json")
    assert report.read(home / "validate" / "report.json")
