"""Tests of the comparison of a bundle's graphs with the ONNX Runtime of the device."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from deploytool.bundle.manifest import Manifest, parse_manifest, read_manifest, write_manifest
from deploytool.device import verify
from deploytool.device.candidates import Tier, candidates, unavailable
from deploytool.device.commands import bundle_line
from deploytool.device.environment import Environment
from deploytool.errors import Refused
from tests.device.ort_cpu import on_ort_cpu
from tests.transfer.small import make_bundle


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return read_manifest(make_bundle(tmp_path / "bundle", 1))


def with_versions(manifest: Manifest, ir_version: int, opset: int) -> Manifest:
    graphs = tuple(replace(graph, ir_version=ir_version, opset=opset) for graph in manifest.graphs)
    return replace(manifest, graphs=graphs)


@pytest.mark.parametrize(
    ("version", "ir_version", "opset", "status"),
    [
        ("", 8, 18, "ONNX Runtime is not installed"),
        (
            *("1.20.1", 8, 18),
            "held: ONNX Runtime 1.20.1 reads IR version 8 and opset 18; the oldest that was tried is 1.31.1",
        ),
        ("1.32.0", 10, 22, "held: ONNX Runtime 1.32.0 reads IR version 10 and opset 22; tried with 1.31.1"),
        (
            *("1.20.1", 10, 22),
            "ONNX Runtime 1.20.1 reads opsets up to 21, and the graph has opset 22, which 1.21 and later read",
        ),
        (
            *("1.17.3", 10, 18),
            "ONNX Runtime 1.17.3 reads IR versions up to 9, and the graph has IR version 10, which 1.18 and later read",
        ),
    ],
)
def test_the_runtime_is_compared_with_the_manifest(
    version: str, ir_version: int, opset: int, status: str, manifest: Manifest, tmp_path: Path
) -> None:
    environment = Environment("linux", "x86_64", onnxruntime=version)
    written = with_versions(manifest, ir_version, opset)
    assert verify.runtime_status(written, environment) == status
    built = unavailable(Tier.BUILT, "none")
    cpu = on_ort_cpu(candidates(tmp_path / "bundle", written, environment, built))
    assert cpu.absent == (status if "up to" in status else None)


def test_doctor_says_whether_a_bundle_can_be_read(manifest: Manifest) -> None:
    assert bundle_line(manifest).startswith("m: held: ONNX Runtime ")


@pytest.mark.parametrize(
    "change",
    [{"floor": {"tensorflow": "2"}}, {"floor": {"ort": "new"}}, {"tried": "latest"}, {"graphs": (0, 18)}],
    ids=str,
)
def test_an_invalid_version_is_refused(change: dict[str, object], manifest: Manifest, tmp_path: Path) -> None:
    wrong = with_versions(manifest, 0, 18) if "graphs" in change else replace(manifest, **change)  # type: ignore[arg-type]
    write_manifest(tmp_path, wrong)
    with pytest.raises(Refused, match=r"the version of a (graph is out of range|runtime is invalid)"):
        parse_manifest((tmp_path / "manifest.json").read_bytes(), tmp_path)
