"""`doctor` with both command lines, on this machine and with a fake package."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from deploytool.host import machine
from tests.conftest import ROOT, Command
from tests.transfer.small import make_bundle

without_gpu = pytest.mark.skipif(bool(machine.gpus()), reason="this machine has a GPU")


@pytest.fixture(params=["deploytool", "deploytool.device"])
def cli(request: pytest.FixtureRequest, tmp_path: Path) -> Command:
    def call(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", request.param, "doctor", *arguments]
        settings = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
        return subprocess.run(command, cwd=tmp_path, env=settings, capture_output=True, text=True, check=False)

    return call


@without_gpu
def test_this_machine(cli: Command) -> None:
    done = cli()
    assert done.returncode == 0, done.stderr
    assert f"  torch             {machine.version('torch')}\n" in done.stdout
    assert "CPUExecutionProvider: starts\n" in done.stdout
    assert "  rtx40             yes  TensorRT-RTX builds for it without a GPU\n" in done.stdout
    assert "  orin              no   TensorRT-RTX does not support compute capability 8.7" in done.stdout
    assert done.stdout.endswith("No known trap was found.\n")
    assert done.stdout.count("No known trap") == 1


@without_gpu
def test_a_bundle_is_compared_with_the_runtime_here(cli: Command, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", 1)
    *_, before, last = cli("--bundle", str(bundle)).stdout.splitlines()
    assert before == "No known trap was found."
    assert re.fullmatch(r"m: held: ONNX Runtime \S+ reads IR version 8 and opset 18; .* 1\.31\.1", last)
    done = cli("--bundle", str(tmp_path))
    assert done.returncode == 8, done.stderr
    assert done.stdout == ""


@without_gpu
def test_a_target_decides_the_exit_code(cli: Command) -> None:
    assert cli("--target", "rtx40").returncode == 0
    done = cli("--target", "orin", "--json")
    assert done.returncode == 5
    document = json.loads(done.stdout)
    assert document["error"]["exit_code"] == 5
    assert document["error"]["remedy"] == "build it there: python -m deploytool.device build BUNDLE"
    assert [item["name"] for item in document["result"]["capabilities"]] == [
        *("make graphs", "orin", "run", "sign", "check signatures"),
    ]
    assert cli("--target", "orim").returncode == 2


def test_both_runtimes_stop_every_command_except_doctor(cli: Command, deploytool: Command, tmp_path: Path) -> None:
    package = tmp_path / "site" / "onnxruntime_gpu-1.31.1.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: onnxruntime-gpu\nVersion: 1.31.1\n")
    path = f"{ROOT}{os.pathsep}{package.parent}"
    assert deploytool("targets", PYTHONPATH=path).returncode == 5
    done = cli(PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    assert "Trap (both runtimes): onnxruntime and onnxruntime-gpu are both installed" in done.stdout
    assert "  → pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime" in done.stdout
