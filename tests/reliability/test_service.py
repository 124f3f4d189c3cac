"""Runs a small sample of the service campaign, and checks that the campaign detects problems."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from deploytool.bundle.manifest import read_manifest
from deploytool.device import install, start_attempts
from tests import tiny
from tests.conftest import ROOT
from tests.reliability import service
from tests.reliability.service import ExpectedOutputs

INPUTS = np.random.default_rng(0).standard_normal((8, 3, 32, 32)).astype(np.float32)


def test_a_service_gives_right_outputs_while_bundles_are_installed(
    finished: Path, packed: Path, tmp_path: Path
) -> None:
    model = tiny.tiny().eval()
    model.load_state_dict(load_file(finished / "load/weights.safetensors"))
    with torch.no_grad():
        expected = {read_manifest(packed).provenance.weights: model(torch.from_numpy(INPUTS)).numpy()}
    np.savez(tmp_path / "answers.npz", inputs=INPUTS, **expected)
    command = [sys.executable, "-m", "tests.reliability.service", "--bundle", str(packed)]
    command += ["--answers", str(tmp_path / "answers.npz"), "--calls", "400"]
    command += ["--forks", "2", "--threads", "4", "--openings", "2"]
    settings = {**os.environ, "TMPDIR": str(tmp_path)}
    process = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout + process.stderr
    assert "400 calls" in process.stdout


@pytest.mark.parametrize(
    ("run", "problem"),
    [
        (lambda name: {"y": name[:, :1] + 1e-3}, "case "),
        (lambda name: {"y": name[:1, :1]}, "case "),
        (lambda name: {}[name], "KeyError|TypeError"),
    ],
)
def test_a_wrong_output_or_an_error_is_detected(run: Callable[[Any], Any], problem: str) -> None:
    inputs = INPUTS.reshape(8, -1)
    known = ExpectedOutputs(inputs, {"w": inputs[:, :1]})
    with pytest.raises(AssertionError, match=problem):
        service._call_model(fake_model(run), known, 32, 2, seed=0)
    service._call_model(fake_model(lambda name: {"y": name[:, :1]}), known, 32, 2, seed=0)


def fake_model(run: Callable[[Any], Any]) -> Any:
    """A model whose outputs are those of `run`."""
    manifest = SimpleNamespace(provenance=SimpleNamespace(weights="w"), inputs=(SimpleNamespace(name="name"),))
    return SimpleNamespace(manifest=manifest, run=run)


def test_growth_and_rejected_bundles_are_detected(packed: Path, tmp_path: Path) -> None:
    stable = {"grown_mib": 0.0, "descriptors": 0, "threads": 0}
    assert service._check_growth([stable]) == []
    for change in ({"grown_mib": 50.0}, {"descriptors": 1}, {"threads": 7}):
        assert len(service._check_growth([stable, {**stable, **change}])) == 1
    root = tmp_path / "root"
    digest = install.install(packed, root, lambda checked: None).current
    assert service._check_root(root) == []
    start_attempts.record(install.start_records(root, digest), "it did not start")
    (root / ".staging-x").mkdir()
    assert service._check_root(root) == ["a failed start: it did not start", "leftover file: .staging-x"]


def test_numpy_and_torch_agree_on_the_network_of_the_campaign(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from tests.reliability import commands

    namespace: dict[str, Callable[[int], torch.nn.Module]] = {}
    exec(commands.NET, namespace)
    net, images = namespace["make"](3), INPUTS[:, :, :16, :16].copy()
    save_file(net.state_dict(), tmp_path / "weights.safetensors")
    with torch.no_grad():
        np.testing.assert_allclose(
            service.numpy_outputs(tmp_path, images), net(torch.from_numpy(images)).numpy(), atol=1e-5
        )
