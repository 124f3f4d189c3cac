"""`deploytool fleet` on the command line: a real device on loopback, its results, the page, and wrong uses."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from deploytool.bundle import sign
from deploytool.bundle.manifest import manifest_digest
from tests.conftest import Command
from tests.device.corner_faults import edit_graph, fade_beyond
from tests.device.keys import keys
from tests.fleet import rigs
from tests.fleet.rigs import Rig
from tests.transfer import servers

TWO = """
[devices.one]
ssh = "me@one"
root = "/opt/model"
[devices.two]
ssh = "me@two"
root = "/opt/model"
labels = ["lab"]
"""


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    if not servers.SSHD:
        pytest.skip("no sshd on this machine: apt-get install openssh-server")
    with rigs.rigs(tmp_path_factory.mktemp("device"), 1) as (running,):
        yield running


def table(rig: Rig, folder: Path) -> str:
    ssh = rig.device.ssh
    (folder / "fleet.toml").write_text(
        f'[devices.orin]\nssh = "device"\nroot = "{rig.root}"\nport = {ssh.port}\n'
        f'ssh-config = "{ssh.config}"\npython = "{ssh.python}"\n[fleet]\nseconds = 0.1\n'
    )
    return str(folder / "fleet.toml")


def test_a_bundle_is_deployed_measured_and_rolled_back(
    deploytool: Command, rig: Rig, run_copy: Path, packed: Path, tmp_path: Path
) -> None:
    config = ("--config", table(rig, tmp_path))
    shutil.copytree(packed, run_copy / "pack" / "bundle")
    bundle, page = str(run_copy / "pack" / "bundle"), ("--run", str(run_copy))
    digest = manifest_digest(packed)
    done = deploytool("fleet", "deploy", bundle, *config, *page, "--first", "1", "--json")
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)["fleet"]["devices"]
    assert (result["outcome"], result["digest"], rig.current()) == ("done", digest, digest)
    assert [step["command"][0] for step in result["steps"]] == ["install", "bench"]
    (measured,) = (each["trial"] for each in result["steps"][1]["document"]["result"]["tried"] if each["trial"])
    assert [(each["corner"], each["outcome"]) for each in measured["corners"]] == [
        ("batch 1", "held"),
        ("batch 32", "held"),
    ]
    home = tmp_path / "artifacts/fleet" / digest[:12]
    assert json.loads((home / "orin.deploy.json").read_text()) == result
    assert json.loads((home / "orin.deploy.measured.json").read_text())["result"]["tier"] == "ORT CPU"
    assert "ORT CPU" in (run_copy / "report.html").read_text()
    assert (run_copy / "devices" / "orin.json").is_file()

    later = Path(shutil.copytree(packed, tmp_path / "later"))
    text = (later / "manifest.json").read_text().replace('"sequence": 1', '"sequence": 2')
    (later / "manifest.json").write_text(text)
    slow = deploytool("fleet", "deploy", str(later), *config, "--max-latency", "0.001")
    assert slow.returncode == 4
    assert "it was rolled back" in slow.stdout
    assert rig.current() == digest
    status = deploytool("fleet", "status", *config)
    assert status.returncode == 0
    assert digest[:12] in status.stdout
    assert deploytool("fleet", "deploy", bundle, *config).returncode == 8  # sequence 2 was installed
    assert not (rig.root / "received" / digest).exists()
    assert deploytool("fleet", "verify", *config, "--require", "trt").returncode == 6
    doctor = deploytool("fleet", "doctor", *config)
    assert doctor.returncode == 0
    assert "orin: done" in doctor.stdout


def test_a_device_that_is_wrong_at_a_corner_alone_is_told_by_the_corner(
    deploytool: Command, rig: Rig, packed: Path, tmp_path: Path
) -> None:
    shutil.rmtree(rig.root)
    rig.root.mkdir()
    bundle = Path(shutil.copytree(packed, tmp_path / "bundle"))
    edit_graph(bundle, partial(fade_beyond, axis=0, kept=30))
    done = deploytool("fleet", "deploy", str(bundle), "--config", table(rig, tmp_path), "--json")
    assert done.returncode == 3, done.stderr
    (result,) = json.loads(done.stdout)["fleet"]["devices"]
    assert result["outcome"] == "failed"
    assert "ORT CPU: at the corner batch 32: the largest error of logits is " in result["reason"]
    assert rig.current() is None


def test_a_required_signature_is_checked_here_and_on_the_device(
    deploytool: Command, rig: Rig, packed: Path, tmp_path: Path
) -> None:
    shutil.rmtree(rig.root)
    rig.root.mkdir()
    config = ("--config", table(rig, tmp_path))
    bundle = shutil.copytree(packed, tmp_path / "bundle")
    (private, ours), (_, theirs) = keys(tmp_path, "ours"), keys(tmp_path, "theirs")

    def refused(problem: str, key: Path, code: int = 8) -> None:
        rig.proxy.reset()
        done = deploytool("fleet", "deploy", str(bundle), *config, "--require-signature", str(key))
        assert (done.returncode, rig.proxy.up) == (code, 0), done.stderr
        assert problem in done.stderr
        assert "Traceback" not in done.stderr

    refused("is not signed", ours)
    sign.sign(bundle, private)
    refused("is not by the key", theirs)
    refused("cannot be read", tmp_path / "nowhere.pem", 2)
    done = deploytool("fleet", "deploy", str(bundle), *config, "--require-signature", str(ours), "--json")
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)["fleet"]["devices"]
    for step in result["steps"]:
        verified = step["document"]["result"].get("verified", step["document"]["result"])
        held = {check["name"]: check["status"] for check in verified["steps"]}
        assert held["signature"].startswith("held: "), step["command"]
    for key, code, problem in (
        (ours, 0, ""),
        (theirs, 8, "is not by the key"),
        (tmp_path / "nowhere.pem", 2, "cannot be read"),
    ):
        done = deploytool("fleet", "verify", *config, "--require-signature", str(key))
        assert (done.returncode, problem in done.stderr) == (code, True), done.stderr


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("deploy", "fleet deploy takes a bundle"),
        ("verify bundle", "fleet verify takes no bundle"),
        ("verify --first 1", "--first applies to fleet deploy, not to verify"),
        ("build --require trt", "--require applies to fleet deploy and verify and bench, not to build"),
        ("status --max-latency 3", "--max-latency applies to"),
        ("doctor --require-signature key.pem", "--require-signature applies to fleet deploy and verify and bench"),
        ("status --device three", "there is no device 'three'"),
        ("deploy bundle --canary three", "--canary three is not among the devices of this rollout"),
        ("deploy bundle --device one --canary two", "--canary two is not among the devices of this rollout"),
        ("deploy bundle --canary one --first 1", "--first and --canary are mutually exclusive"),
        ("bench --canary one", "--canary applies to fleet deploy, not to bench"),
        ("status --label lap", "there is no label 'lap'"),
        ("deploy nowhere", "nowhere"),
    ],
)
def test_a_wrong_use_is_one_line(deploytool: Command, tmp_path: Path, words: str, problem: str) -> None:
    (tmp_path / "deploytool.toml").write_text(TWO)
    done = deploytool("fleet", *words.split())
    assert done.returncode in (2, 8)
    assert problem in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_action_is_one_clear_line(deploytool: Command) -> None:
    actions = "'status', 'doctor', 'deploy', 'verify', 'build', 'bench', 'rollback'"
    done = deploytool("fleet", "statsu", "--json")
    assert done.stderr.splitlines()[-1] == f"Error: Invalid value for 'action': 'statsu' is not one of {actions}."
    assert json.loads(done.stdout)["error"]["problem"] == done.stderr.splitlines()[-1].removeprefix("Error: ")
    missing = deploytool("fleet").stderr.splitlines()[-1]
    assert missing == "Error: Missing argument 'action'. Choose from: " + actions.replace("'", "")


def test_a_device_that_does_not_answer_is_a_row(deploytool: Command, tmp_path: Path) -> None:
    (tmp_path / "deploytool.toml").write_text(
        f'[devices.dead]\nssh = "127.0.0.1"\nroot = "/opt/model"\nport = {servers.free_port()}\n'
    )
    done = deploytool("fleet", "status", "--patience", "1", PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert done.returncode == 9
    assert "0 of 1 devices done, 1 unreachable" in done.stdout
    assert "Connection refused" in done.stderr
    (tmp_path / "deploytool.toml").write_text("[devices.dead]\nroot = 3\n")
    assert "root = 3 is not a string" in deploytool("fleet", "status").stderr
