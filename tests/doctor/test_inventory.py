"""What is read from metadata and libraries, on places made for it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from deploytool.doctor import inventory
from tests.conftest import modules_of


def distribution(folder: Path, name: str, version: str, *files: str) -> None:
    place = folder / f"{name}-{version}.dist-info"
    place.mkdir(parents=True)
    (place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (place / "RECORD").write_text("".join(f"{file},,\n" for file in files))


def test_distributions_are_found_by_their_normal_names(tmp_path: Path) -> None:
    distribution(tmp_path, "tensorrt_cu13_libs", "10.16.1", "tensorrt_libs/libnvinfer.so.10", "tensorrt_libs/x.py")
    distribution(tmp_path, "tensorrt", "10.13", "tensorrt/__init__.py")
    distribution(tmp_path, "nvidia.cudnn_cu13", "9.28")
    distribution(tmp_path, "requests", "2.34")
    seen = inventory.installed([str(tmp_path)])
    assert {name: one.version for name, one in seen.items()} == {
        "nvidia-cudnn-cu13": "9.28",
        "tensorrt": "10.13",
        "tensorrt-cu13-libs": "10.16.1",
    }
    assert seen["tensorrt-cu13-libs"].libraries == ("libnvinfer.so.10",)
    assert seen["tensorrt"].libraries == ()


def test_the_first_of_two_is_the_one_that_python_takes(tmp_path: Path) -> None:
    distribution(tmp_path / "one", "onnx", "1.23.2")
    distribution(tmp_path / "two", "onnx", "1.18.0")
    assert inventory.installed([str(tmp_path / "one"), str(tmp_path / "two")])["onnx"].version == "1.23.2"


def test_which_releases_a_provider_library_asks_for(tmp_path: Path) -> None:
    (tmp_path / "libonnxruntime_providers_cuda.so").write_bytes(b"\x7fELF\0libcublasLt.so.12\0libcublas.so.13\0\0")
    (tmp_path / "libonnxruntime_providers_tensorrt.so").write_bytes(b"\x7fELF\0libnvinfer.so.10\0libcudart.so.13\0")
    assert inventory.asked(tmp_path) == {"cuda": "13", "tensorrt": "10"}
    (tmp_path / "libonnxruntime_providers_cuda.so").write_bytes(b"")
    (tmp_path / "libonnxruntime_providers_tensorrt.so").write_bytes(b"not at all")
    assert inventory.asked(tmp_path) == {}


def test_a_look_at_this_machine_imports_nothing_heavy() -> None:
    program = "from deploytool.doctor import inventory\nseen = inventory.look()\nassert seen.providers[-1].starts, seen"
    assert not {"torch", "onnx", "onnxruntime", "tensorrt_rtx", "typer", "numpy"} & modules_of(program)


def test_a_machine_without_onnx_runtime_has_no_providers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    seen = inventory.collect()
    assert (seen.providers, seen.asked) == ((), {})
    assert seen.system == sys.platform
