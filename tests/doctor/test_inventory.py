"""Reading package metadata and provider libraries in temporary folders."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from deploytool.doctor import inventory
from tests.conftest import modules_of


def distribution(folder: Path, name: str, version: str, *files: str) -> None:
    metadata = folder / f"{name}-{version}.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (metadata / "RECORD").write_text("".join(f"{file},,\n" for file in files))
    for file in files:  # some implementations of importlib.metadata leave out files that are missing
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).touch()


def test_packages_are_found_by_normalised_name(tmp_path: Path) -> None:
    distribution(tmp_path, "tensorrt_cu13_libs", "10.16.1", "tensorrt_libs/libnvinfer.so.10", "tensorrt_libs/x.py")
    distribution(tmp_path, "tensorrt", "10.13", "tensorrt/__init__.py")
    distribution(tmp_path, "nvidia.cudnn_cu13", "9.28")
    distribution(tmp_path, "requests", "2.34")
    packages = inventory.installed([str(tmp_path)])
    assert {name: package.version for name, package in packages.items()} == {
        "nvidia-cudnn-cu13": "9.28",
        "tensorrt": "10.13",
        "tensorrt-cu13-libs": "10.16.1",
    }
    assert packages["tensorrt-cu13-libs"].libraries == ("libnvinfer.so.10",)
    assert packages["tensorrt"].libraries == ()


def test_the_first_of_two_installations_counts_as_in_python(tmp_path: Path) -> None:
    distribution(tmp_path / "one", "onnx", "1.23.2")
    distribution(tmp_path / "two", "onnx", "1.18.0")
    assert inventory.installed([str(tmp_path / "one"), str(tmp_path / "two")])["onnx"].version == "1.23.2"


def test_the_releases_that_provider_libraries_are_linked_to(tmp_path: Path) -> None:
    (tmp_path / "libonnxruntime_providers_cuda.so").write_bytes(b"\x7fELF\0libcublasLt.so.12\0libcublas.so.13\0\0")
    (tmp_path / "libonnxruntime_providers_tensorrt.so").write_bytes(b"\x7fELF\0libnvinfer.so.10\0libcudart.so.13\0")
    assert inventory.linked_releases(tmp_path) == {"cuda": "13", "tensorrt": "10"}
    (tmp_path / "libonnxruntime_providers_cuda.so").write_bytes(b"")
    (tmp_path / "libonnxruntime_providers_tensorrt.so").write_bytes(b"no library")
    assert inventory.linked_releases(tmp_path) == {}


def test_collecting_imports_no_heavy_library() -> None:
    program = "from deploytool.doctor import inventory\nfound = inventory.collect()\nassert found.providers[-1].starts"
    assert not {"torch", "onnx", "onnxruntime", "tensorrt_rtx", "typer", "numpy"} & modules_of(program)


def test_without_onnx_runtime_there_are_no_providers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    result = inventory.collect()
    assert (result.providers, result.linked_releases) == ((), {})
    assert result.system == sys.platform
