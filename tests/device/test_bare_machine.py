"""A bundle in a virtual environment with the base install and onnxruntime only."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.mark.sweep
def test_the_base_install_verifies_runs_and_benches_a_bundle(packed: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "device")], check=True)
    python = str(tmp_path / "device" / "bin" / "python")
    install = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "-c", str(ROOT / "constraints.txt")]
    subprocess.run([*install, str(ROOT), "onnxruntime"], check=True, capture_output=True)
    listed = subprocess.run([python, "-m", "pip", "list", "--format=json"], capture_output=True, text=True, check=True)
    names = {package["name"].lower() for package in json.loads(listed.stdout)}
    assert {"deploytool", "numpy", "pillow", "onnxruntime"} <= names
    assert not {"torch", "onnx", "typer", "rich", "safetensors"} & names

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([python, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)

    root, image = str(tmp_path / "root"), str(packed / "golden" / "case_0.png")
    for command in (
        ["verify", str(packed)],
        ["bench", str(packed), "--seconds", "0.2"],
        ["install", str(packed), "--root", root],
        ["run", root, image],
    ):
        done = call("-m", "deploytool.device", *command, "--json")
        assert done.returncode == 0, done.stderr
    refused = call("-m", "deploytool.device", "verify", str(packed), "--require-signature", "public.pem")
    assert refused.returncode == 5
    assert "cryptography is not installed" in refused.stderr
    program = f"import deploytool.device\nwith deploytool.device.open({root!r}) as model: print(model({image!r}).shape)"
    assert call("-c", program).stdout == "(1, 10)\n"
    clock = "import numpy, time as t; was = t.process_time(); import deploytool.device; print(t.process_time() - was)"
    seconds = [float(call("-c", clock).stdout) for _ in range(3)]
    assert min(seconds) < 0.3  # seconds of the processor, as others may work here too
    entry = str(tmp_path / "device" / "bin" / "deploytool")
    for command, code in ((["verify", str(packed)], 0), (["export", "mixnet_s"], 5)):
        assert subprocess.run([entry, *command], cwd=tmp_path, check=False).returncode == code
