"""The receiver on a device validates every request, and writes only below its root."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deploytool.transfer import ssh_receiver
from tests.conftest import ROOT

MANIFEST = b"{}\n"
NAME, NONE = hashlib.sha256(b"x").hexdigest(), "0" * 64


def base64_text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def receive(home: Path, sent: bytes = b"x", **changed: Any) -> dict[str, Any]:
    request = {
        "root": str(home),
        "digest": hashlib.sha256(MANIFEST).hexdigest(),
        "files": [],
        "beside": {"manifest.json": base64_text(MANIFEST)},
        "key": "",
        "install": False,
        **changed,
    }
    command = [sys.executable, str(ROOT / "deploytool" / "transfer" / "ssh_receiver.py")]
    asked = json.dumps(request).encode() + b"\n" + sent
    done = subprocess.run(command, input=asked, capture_output=True, timeout=30, check=True)
    assert done.stderr == b""
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1].partition(b":")[2])
    return answer


def test_a_valid_request_is_received(tmp_path: Path) -> None:
    answer = receive(tmp_path / "root", files=[["a/b", 1, NAME]])
    assert (Path(answer["folder"]) / "a" / "b").read_bytes() == b"x"


@pytest.mark.parametrize(
    "changed",
    [
        {"beside": {"manifest.json": base64_text(MANIFEST), "../../../out": base64_text(b"x")}},
        {"beside": {"manifest.json": base64_text(MANIFEST), "/tmp/out": base64_text(b"x")}},
        {"beside": {"manifest.json": base64_text(MANIFEST), "weights.bin": base64_text(b"x")}},
        {"beside": {"manifest.json": "%%%"}},
        {"beside": {}},
        {"beside": []},
        {"files": [["../out", 1, NAME]]},
        {"files": [["a/../../out", 1, NAME]]},
        {"files": [["/tmp/out", 1, NAME]]},
        {"files": [["a", 1, NAME], ["a/b", 1, NAME]]},
        {"files": [["a", "1", NAME]]},
        {"files": [["a", -1, NONE]]},
        {"files": [["a", True, NAME]]},
        {"files": [["a", 1]]},
        {"files": [["a", 1, "../../../out"]]},
        {"files": [["a", 1, "/tmp/out"]]},
        {"files": "abc"},
        {"files": None},
        {"digest": "../" * 21 + "x"},
        {"digest": 5},
        {"root": 5},
        {"key": 5, "install": True},
    ],
    ids=str,
)
def test_an_invalid_request_gives_one_line_and_writes_nothing_outside(tmp_path: Path, changed: dict[str, Any]) -> None:
    answer = receive(tmp_path / "deep" / "root", **changed)
    assert answer.get("problem") or "key" in changed
    assert [path.name for path in tmp_path.iterdir()] in ([], ["deep"])
    assert {path.name for path in tmp_path.glob("deep/*")} <= {"root"}
    assert not Path("/tmp/out").exists()


def test_a_link_instead_of_the_staging_folder_is_refused(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    (victim / "precious").mkdir(parents=True)
    (tmp_path / "root" / "received").mkdir(parents=True)
    (tmp_path / "root" / "received" / ".incoming").symlink_to(victim)
    assert "is a symbolic link" in receive(tmp_path / "root")["problem"]
    assert (victim / "precious").is_dir()


def test_a_link_instead_of_the_folder_of_bundles_is_refused(tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "received").symlink_to(tmp_path / "victim")
    assert "is a symbolic link" in receive(tmp_path / "root", files=[["a", 1, NAME]])["problem"]


def test_wrong_bytes_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "root"
    assert receive(root, digest="0" * 64)["problem"] == "the manifest does not have its digest"
    answer = receive(root, b"y", files=[["a", 1, NAME]])
    assert answer["problem"] == "a file does not have its digest"
    assert not list(root.glob("received/.incoming/*.part"))
    assert not list(root.glob("received/[0-9a-f]*"))


def make_known_bundle(root: Path, path: str) -> Path:
    """A bundle on the device whose manifest lists a file with the digest of `x`."""
    folder = root / "bundles" / "old"
    folder.mkdir(parents=True)
    manifest = {"files": [{"path": path, "sha256": NAME}], "engines": []}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_a_corrupt_file_on_the_device_is_requested_again(tmp_path: Path) -> None:
    (make_known_bundle(tmp_path / "root", "b") / "b").write_bytes(b"y")
    answer = receive(tmp_path / "root", files=[["a", 1, NAME]])
    assert (Path(answer["folder"]) / "a").read_bytes() == b"x"


def test_files_outside_a_bundle_are_not_reused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"x")
    make_known_bundle(tmp_path / "root", "../../../secret")
    assert ssh_receiver._index_files(tmp_path / "root") == {}


def test_a_part_that_is_longer_than_its_file_is_discarded(tmp_path: Path) -> None:
    stage = tmp_path / "root" / "received" / ".incoming"
    stage.mkdir(parents=True)
    (stage / f"{NAME}.part").write_bytes(b"xyz")
    answer = receive(tmp_path / "root", files=[["a", 1, NAME]])
    assert (Path(answer["folder"]) / "a").read_bytes() == b"x"


def test_nothing_is_requested_without_free_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 0))
    with pytest.raises(ssh_receiver.Failure, match="0 MB free"):
        ssh_receiver._gather(tmp_path / "received", tmp_path, {NAME: 1}, io.BytesIO(b"x"))


def test_corruption_on_the_disk_is_reported(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"y")
    with pytest.raises(ssh_receiver.Failure, match="a is corrupt on this disk"):
        ssh_receiver._assemble(tmp_path, [("a", 1, NAME)], {})


def test_two_ships_at_once_are_refused(tmp_path: Path) -> None:
    stage = tmp_path / "root" / "received" / ".incoming"
    stage.mkdir(parents=True)
    with (stage / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert "another process is sending" in receive(tmp_path / "root", files=[["a", 1, NAME]])["problem"]
    assert "problem" not in receive(tmp_path / "root", files=[["a", 1, NAME]])


def test_the_install_imports_nothing_from_the_login_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "json.py").write_text("open('ran', 'w').close(); raise ImportError")
    monkeypatch.chdir(tmp_path)
    answer = receive(tmp_path / "root", files=[["a", 1, NAME]], install=True)
    assert "is not a manifest of this version" in answer["install"]["said"]
    assert not (tmp_path / "ran").exists()


def test_an_install_uses_a_copy_that_no_other_ship_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copies: list[Path] = []

    def install(command: list[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        copy = Path(command[command.index("install") + 1])
        copies.append(copy)
        assert (copy / "manifest.json").read_bytes() == MANIFEST
        other = receive(tmp_path / "root", files=[["a", 1, NAME]])  # a second ship of the same bundle
        shutil.rmtree(other["folder"])
        assert (copy / "a").read_bytes() == b"x"
        return subprocess.CompletedProcess(command, 1, b"no", b"")

    run = subprocess.run
    monkeypatch.setattr(
        subprocess, "run", lambda command, **more: (install if "install" in command else run)(command, **more)
    )
    request = {
        "root": str(tmp_path / "root"),
        "digest": hashlib.sha256(MANIFEST).hexdigest(),
        "files": [["a", 1, NAME]],
        "beside": {"manifest.json": base64_text(MANIFEST)},
        "key": "",
        "install": True,
    }
    answer = ssh_receiver._receive(request, io.BufferedReader(io.BytesIO(b"x")))
    assert copies[0] != Path(answer["folder"])
    assert (Path(answer["folder"]) / "a").read_bytes() == b"x"  # a bundle whose install failed stays visible


def test_the_copy_of_a_killed_install_is_removed(tmp_path: Path) -> None:
    home = tmp_path / "root" / "received"
    dead = subprocess.Popen(["true"])
    dead.wait()
    for pid in (dead.pid, os.getpid()):
        (home / f".installing-{pid}").mkdir(parents=True)
    receive(tmp_path / "root", files=[["a", 1, NAME]])
    assert [path.name for path in home.glob(".installing-*")] == [f".installing-{os.getpid()}"]


@pytest.mark.parametrize("changed", [{"digest": "../" * 21 + "x"}, {"files": [["a", 1, "../../../out"]]}], ids=str)
def test_names_are_checked_before_anything_is_written(tmp_path: Path, changed: dict[str, Any]) -> None:
    assert receive(tmp_path / "root", **changed)["problem"] == "the list of files is invalid"
    assert not list(tmp_path.iterdir())


def test_a_bundle_is_published_by_one_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stage" / "tree").mkdir(parents=True)
    (tmp_path / "stage" / "tree" / "a").write_bytes(b"x")

    def killed(path: Path, target: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            ssh_receiver._publish(tmp_path / "stage", tmp_path / "target")
    assert not (tmp_path / "target").exists()
    ssh_receiver._publish(tmp_path / "stage", tmp_path / "target")
    assert (tmp_path / "target" / "a").read_bytes() == b"x"
