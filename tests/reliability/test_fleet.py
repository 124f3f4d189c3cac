"""Runs a sample of the campaign of the fleet, and checks that the campaign detects what is wrong."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from deploytool.device import install
from deploytool.fleet.actions import Action
from deploytool.fleet.result import SCHEMA, DeviceResult, Outcome
from tests.conftest import ROOT
from tests.fleet.rigs import Rig
from tests.reliability import fleet
from tests.transfer import servers, small


@pytest.mark.skipif(not servers.SSHD, reason="no sshd on this machine: apt-get install openssh-server")
def test_devices_behind_lines_that_are_cut_have_whole_and_proved_bundles() -> None:
    command = [sys.executable, "-m", "tests.reliability.fleet", "--deployments", "4", "--devices", "2"]
    settings = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout + process.stderr
    assert "0 problems; 0 wrong results" in process.stdout


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    """A device without a server: only its root is looked at."""
    from deploytool.fleet.devices import FleetDevice
    from deploytool.transfer.addresses import Device
    from deploytool.transfer.ssh import SshTarget

    (tmp_path / "root").mkdir()
    proxy = servers.Proxy(1)
    proxy.close()
    return Rig(FleetDevice("one", Device("device", str(tmp_path / "root")), SshTarget()), tmp_path / "root", proxy)


def test_a_bundle_that_is_not_whole_or_not_proved_is_detected(rig: Rig, tmp_path: Path) -> None:
    watcher = fleet.Watcher([rig], real=False)
    watcher.look(rig)
    assert (watcher.looked, watcher.problems) == (0, [])
    digest = install.install(small.make_bundle(tmp_path / "bundle", 1), rig.root, lambda checked: None).current
    watcher.look(rig)
    assert watcher.problems == [f"one: {digest[:12]} was never proved"]
    (rig.root / "proved").mkdir()
    (rig.root / "proved" / digest).touch()
    watcher.look(rig)
    assert len(watcher.problems) == 1
    shutil.rmtree(rig.root / "bundles" / digest / "golden")
    watcher.look(rig)
    assert len(watcher.problems) == 2


def test_a_wrong_result_is_detected(rig: Rig, tmp_path: Path) -> None:
    digest = install.install(small.make_bundle(tmp_path / "bundle", 1), rig.root, lambda checked: None).current
    done = DeviceResult(SCHEMA, "one", Action.DEPLOY, Outcome.DONE, digest)
    failed = replace(done, outcome=Outcome.FAILED, reason="too slow")
    assert fleet.misjudged(rig, done, None, False, False) is None
    assert fleet.misjudged(rig, done, None, False, True)
    assert fleet.misjudged(rig, replace(done, digest="0" * 64), None, False, False)
    assert fleet.misjudged(rig, replace(failed, reason=""), None, False, False) == "it has no reason"
    assert fleet.misjudged(rig, failed, "1" * 64, False, True) == "it failed and was not rolled back"
    assert fleet.misjudged(rig, replace(failed, rolled_back=True), "1" * 64, False, True) == "it was not rolled back"
    assert fleet.misjudged(rig, replace(failed, outcome=Outcome.NOT_STARTED), None, False, False)
