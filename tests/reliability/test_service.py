"""A small sample of the service's campaign, and that it sees what it is to see."""

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
from tests.reliability.service import Known

INPUTS = np.random.default_rng(0).standard_normal((8, 3, 32, 32)).astype(np.float32)


def test_a_service_answers_rightly_while_bundles_are_installed_beside_it(
    finished: Path, packed: Path, tmp_path: Path
) -> None:
    model = tiny.tiny().eval()
    model.load_state_dict(load_file(finished / "load/weights.safetensors"))
    with torch.no_grad():
        right = {read_manifest(packed).provenance.weights: model(torch.from_numpy(INPUTS)).numpy()}
    np.savez(tmp_path / "answers.npz", inputs=INPUTS, **right)
    command = [sys.executable, "-m", "tests.reliability.service", "--bundle", str(packed)]
    command += ["--answers", str(tmp_path / "answers.npz"), "--calls", "400"]
    command += ["--forks", "2", "--threads", "4", "--openings", "2"]
    settings = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "400 calls" in done.stdout


@pytest.mark.parametrize(
    ("run", "problem"),
    [
        (lambda name: {"y": name[:, :1] + 1e-3}, "case "),
        (lambda name: {"y": name[:1, :1]}, "case "),
        (lambda name: {}[name], "KeyError|TypeError"),
    ],
)
def test_a_wrong_answer_or_an_error_is_noticed(run: Callable[[Any], Any], problem: str) -> None:
    inputs = INPUTS.reshape(8, -1)
    known = Known(inputs, {"w": inputs[:, :1]})
    with pytest.raises(AssertionError, match=problem):
        service._called(pretended(run), known, 32, 2, seed=0)
    service._called(pretended(lambda name: {"y": name[:, :1]}), known, 32, 2, seed=0)


def pretended(run: Callable[[Any], Any]) -> Any:
    """A model that answers so."""
    manifest = SimpleNamespace(provenance=SimpleNamespace(weights="w"), inputs=(SimpleNamespace(name="name"),))
    return SimpleNamespace(manifest=manifest, run=run)


def test_what_grew_and_what_was_given_up_is_noticed(packed: Path, tmp_path: Path) -> None:
    well = {"grown_mib": 0.0, "descriptors": 0, "threads": 0}
    assert service._judged([well]) == []
    for change in ({"grown_mib": 50.0}, {"descriptors": 1}, {"threads": 7}):
        assert len(service._judged([well, {**well, **change}])) == 1
    root = tmp_path / "root"
    digest = install.install(packed, root, lambda checked: None).current
    assert service._left(root) == []
    start_attempts.record(install.start_records(root, digest), "it did not start")
    (root / ".staging-x").mkdir()
    assert service._left(root) == ["a failed start: it did not start", "litter: .staging-x"]


def test_numpy_and_torch_agree_about_the_net_of_the_campaign(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from tests.reliability import commands

    namespace: dict[str, Callable[[int], torch.nn.Module]] = {}
    exec(commands.NET, namespace)
    net, images = namespace["make"](3), INPUTS[:, :, :16, :16].copy()
    save_file(net.state_dict(), tmp_path / "weights.safetensors")
    with torch.no_grad():
        np.testing.assert_allclose(service.by_numpy(tmp_path, images), net(torch.from_numpy(images)).numpy(), atol=1e-5)
