"""Tests of the table of what releases of ONNX Runtime and TensorRT read."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from deploytool import runtimes
from deploytool.host import machine
from deploytool.runtimes import Newest
from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("runtime", "version", "expected"),
    [
        ("ort", "1.20", Newest(10, 21)),
        ("ort", "1.20.1", Newest(10, 21)),
        ("ort", "1.22.0+cu126", Newest(10, 22)),
        ("ort", "1.99", Newest(14, 28)),  # what the newest release that is known reads
        ("ort", "1.14", None),
        ("ort", "latest", None),
        ("trt", "10.3", Newest(10, 20)),
        ("trt", "10.3.0.26", Newest(10, 20)),
        ("trt", "8.6", None),
    ],
)
def test_what_a_release_reads(runtime: str, version: str, expected: Newest | None) -> None:
    assert runtimes.newest(runtime, version) == expected


def test_the_refusal_names_the_limit_and_the_release_that_reads_the_graph() -> None:
    assert runtimes.refusal("ort", "1.20.1", 10, 21) is None
    assert runtimes.refusal("ort", "1.20.1", 10, 22) == (
        "ONNX Runtime 1.20.1 reads opsets up to 21, and the graph has opset 22, which 1.21 and later read"
    )
    assert runtimes.refusal("ort", "1.17.3", 10, 18) == (
        "ONNX Runtime 1.17.3 reads IR versions up to 9, and the graph has IR version 10, which 1.18 and later read"
    )
    assert runtimes.refusal("ort", "1.32.0", 13, 30) == (
        "ONNX Runtime 1.32.0 reads opsets up to 28, and the graph has opset 30"
    )
    assert runtimes.refusal("ort", "1.2", 13, 30) is None  # unknown


@pytest.mark.integration
def test_the_onnx_runtime_here_reads_what_the_table_says() -> None:
    program = ROOT / "tests" / "floor" / "newest.py"
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, check=True)
    version, ir_version, opset = json.loads(done.stdout)
    assert version == machine.version("onnxruntime")
    assert runtimes.newest("ort", version) == Newest(ir_version, opset)
