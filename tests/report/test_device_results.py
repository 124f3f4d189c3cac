"""Device results are stored with the run whose bundle they are about, and shown on its page."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from deploytool import serde
from deploytool.benchmark.ratio import Ratio
from deploytool.bundle.manifest import MANIFEST_FILE, manifest_digest
from deploytool.device.candidates import Tier
from deploytool.device.probe import Attempt, Int8Speed, ProbeResult
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


def test_int8_is_told_apart_with_its_gain(home: Path, tmp_path: Path) -> None:
    path = document(home, tmp_path / "laptop.json")
    result = serde.decode(Verification, json.loads(path.read_text())["result"])
    (trial,) = (each.trial for each in result.tried if each.trial)
    tried = [
        ProbeResult(Tier.ORT_CPU, "model.onnx", Attempt.MEASURED, trial=trial, int8=int8) for int8 in (True, False)
    ]
    gain = Int8Speed(Tier.ORT_CPU, 1, Ratio(1.3, 1.2, 1.4))
    int8, single = device_results.rows((replace(result, tried=tuple(tried), tier=Tier.ORT_CPU, int8_speeds=(gain,)),))
    assert (int8[1], single[1], single[-1]) == ("ORT CPU INT8", "ORT CPU", "measured")
    assert int8[-1].startswith("measured, selected; ORT CPU INT8 has 1.30× (1.20–1.40) the speed of FP32")
