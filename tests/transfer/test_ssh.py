"""A bundle to a device behind a real sshd: what it lacks, verified there, whole or not at all, and installed."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

import pytest

from deploytool.bundle import sign, subset
from deploytool.bundle.manifest import all_files, manifest_digest, read_manifest
from deploytool.device import install, verify
from deploytool.device.verify import VerifyOptions
from deploytool.errors import DeployError, Refused, Unreachable
from deploytool.transfer import addresses, ssh
from deploytool.transfer.ssh import ShipResult, SshTarget
from tests.conftest import ROOT, Command
from tests.device.keys import keys
from tests.transfer import servers, small
from tests.transfer.servers import Proxy, Sshd


def shipped(
    folder: Path, root: Path, device: Sshd, *, target: str | None = None, port: int | None = None
) -> ShipResult:
    door = SshTarget(port, None, device.config, sys.executable)
    to, kind = addresses.parse_device(f"device:{root}"), subset.parse(target)
    return ssh.ship(folder, read_manifest(folder), to, door, kind, install=False, say=lambda line: None)


def received(root: Path) -> list[str]:
    """What one sees there."""
    home = root / "received"
    return sorted(path.name for path in home.iterdir() if not path.name.startswith(".")) if home.exists() else []


def test_a_bundle_arrives_as_it_was(device: Sshd, tmp_path: Path, home: Path) -> None:
    folder = small.made(tmp_path / "in", 1)
    (folder / "model.sig").write_text("signed")
    done = shipped(folder, home, device)
    assert Path(done.folder) == home / "received" / manifest_digest(folder)
    assert small.contents(Path(done.folder)) == small.contents(folder)
    assert received(home) == [manifest_digest(folder)]
    assert not (home / "received" / ".incoming").exists()
    assert shipped(folder, home, device).sent == 0


def test_only_what_the_target_needs_and_only_what_it_lacks(device: Sshd, tmp_path: Path, home: Path) -> None:
    one, two = small.made(tmp_path / "one", 2, 40_000), small.made(tmp_path / "two", 2, 40_000, sequence=2)
    first, second = (shipped(each, home, device, target="orin") for each in (one, two))
    assert (first.left_out, first.there) == (1, 0)
    assert second.sent == 0
    assert set(small.contents(two)) - set(small.contents(Path(second.folder))) == {small.RTX40}
    verify.check_integrity(Path(second.folder))


@pytest.mark.parametrize("count", [2, pytest.param(20, marks=pytest.mark.sweep)])
def test_updates_of_the_same_size_and_time_are_delivered(device: Sshd, tmp_path: Path, home: Path, count: int) -> None:
    for number in range(count):
        folder = small.made(tmp_path / "in", number)
        for path in folder.rglob("*"):
            os.utime(path, (1_700_000_000, 1_700_000_000))
        turned = install.install(Path(shipped(folder, home, device).folder), home, lambda checked: None)
        assert small.contents(install.bundle_path(home, turned.current)) == small.contents(folder)
        shutil.rmtree(folder)


def test_a_file_that_rotted_there_is_sent_again(device: Sshd, tmp_path: Path, home: Path) -> None:
    one, two = small.made(tmp_path / "one", 3), small.made(tmp_path / "two", 3, sequence=2)
    place = Path(shipped(one, home, device).folder)
    raw = bytearray((place / small.ORIN).read_bytes())
    raw[7] ^= 1
    (place / small.ORIN).write_bytes(raw)
    second = shipped(two, home, device)
    assert second.sent == (two / small.ORIN).stat().st_size
    assert small.contents(Path(second.folder)) == small.contents(two)
    assert shipped(one, home, device).sent == 0  # the second has it now
    assert small.contents(place) == small.contents(one)


@pytest.mark.parametrize("count", [1, pytest.param(12, marks=pytest.mark.sweep)])
def test_a_cut_transfer_shows_nothing_and_goes_on(device: Sshd, tmp_path: Path, home: Path, count: int) -> None:
    rng = random.Random(count)
    with servers.proxy(device.port) as proxy:
        for number in range(count):
            folder = small.made(tmp_path / f"in{number}", 100 * count + number, 700_000)
            total = sum(file.size for file in all_files(read_manifest(folder)))
            before = received(home)
            proxy.reset()
            proxy.cut_up = rng.randrange(40_000, total)
            with pytest.raises(Unreachable):
                shipped(folder, home, device, port=proxy.port)
            assert received(home) == before
            came = wait_for_parts(home)
            proxy.reset()
            done = shipped(folder, home, device, port=proxy.port)
            assert done.there == came
            assert small.contents(Path(done.folder)) == small.contents(folder)


@pytest.mark.parametrize("count", [1, pytest.param(10, marks=pytest.mark.sweep)])
def test_a_killed_ship_shows_nothing_and_goes_on(device: Sshd, tmp_path: Path, home: Path, count: int) -> None:
    rng, folder, alive = random.Random(count), small.made(tmp_path / "in", 50, 4_000_000), 0
    program = (
        "import sys; from pathlib import Path; from tests.transfer import servers, test_ssh as it;"
        "folder, root, port, config, key = sys.argv[1:];"
        "it.shipped(Path(folder), Path(root), servers.Sshd(int(port), Path(config), Path(key)), port=int(port))"
    )
    with servers.proxy(device.port) as proxy:
        for number in range(count):
            root = home / str(number)
            proxy.reset()
            arguments = [str(folder), str(root), str(proxy.port), str(device.config), str(device.key)]
            alive += _kill(program, arguments, proxy, rng.randrange(20_000, 28_000_000))
            assert proxy.up > 20_000
            if received(root):
                assert small.contents(root / "received" / manifest_digest(folder)) == small.contents(folder)
            wait_for_parts(root)
            assert small.contents(Path(shipped(folder, root, device).folder)) == small.contents(folder)
    assert alive >= count - 1


def _kill(program: str, arguments: list[str], proxy: Proxy, after: int) -> bool:
    with subprocess.Popen([sys.executable, "-c", program, *arguments], cwd=ROOT, stderr=subprocess.DEVNULL) as running:
        while proxy.up < after and running.poll() is None:
            time.sleep(0.0005)
        alive = running.poll() is None
        running.send_signal(signal.SIGKILL)
    return alive


@pytest.mark.parametrize("count", [6, pytest.param(40, marks=pytest.mark.sweep)])
def test_a_receiver_that_is_killed_at_any_moment_shows_all_or_nothing(tmp_path: Path, home: Path, count: int) -> None:
    """All the bytes are there at once, so that what is hit is the hashing, the assembling and the rename."""
    rng, folder, shown = random.Random(count), small.made(tmp_path / "in", 51), 0
    whole = _received(folder, home / "whole", None)  # seconds that it takes where nobody kills it, on this busy machine
    for number in range(count):
        root = home / str(number)
        _received(folder, root, rng.uniform(0, 1.5 * whole))
        shown += len(received(root))
        assert received(root) in ([], [manifest_digest(folder)])
        for place in received(root):
            assert small.contents(root / "received" / place) == small.contents(folder)
    assert count < 40 or 0 < shown < count


def _received(folder: Path, root: Path, after: float | None) -> float:
    """Hands a receiver all it asks for, and kills it so many seconds after it has asked; how long it lived since."""
    files = sorted(all_files(read_manifest(folder)), key=lambda file: file.sha256)
    request = ssh._request(folder, files, addresses.Device("", str(root)), None, None, False)
    command = [sys.executable, str(ROOT / "deploytool/transfer/ssh_receiver.py")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        raw = b"".join((folder / file.path).read_bytes() for file in files)
        running.stdin.write(json.dumps(request).encode() + b"\n" + raw)
        running.stdin.flush()
        assert b"lacking" in running.stdout.readline()
        begun = time.monotonic()
        if after is not None:
            time.sleep(after)
            running.kill()
        running.wait()
        return time.monotonic() - begun


def wait_for_parts(root: Path) -> int:
    """How many bytes are there once nothing comes any more, and nobody holds the lock."""
    stage, before, now = root / "received" / ".incoming", -1, 0
    while before != now or _held(stage / "lock"):
        time.sleep(0.15)
        sizes = [path.stat().st_size for path in stage.rglob("*") if path.is_file()] if stage.exists() else []
        before, now = now, sum(sizes)
    return now


def _held(lock: Path) -> bool:
    return lock.exists() and subprocess.run(["flock", "-n", str(lock), "true"], check=False).returncode != 0


def test_the_install_there_requires_the_signature_too(device: Sshd, tmp_path: Path, home: Path) -> None:
    """As if the one here had been fooled: what arrives is held against the key that came with it."""
    folder, (private, _), (_, public) = (
        small.made(tmp_path / "in", 62),
        keys(tmp_path, "ours"),
        keys(tmp_path, "theirs"),
    )
    sign.sign(folder, private)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexport PYTHONPATH="{ROOT}"\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    to, door = addresses.parse_device(f"device:{home}"), SshTarget(None, None, device.config, str(python))
    with pytest.raises(Refused, match="is not by the key"):
        ssh.ship(folder, read_manifest(folder), to, door, None, key=public, install=True, say=print)
    assert install.read_pointer(home) is None


def test_what_does_not_keep_its_bytes_is_not_shown(device: Sshd, tmp_path: Path, home: Path) -> None:
    folder = small.made(tmp_path / "in", 60)
    manifest = read_manifest(folder)
    raw = bytearray((folder / small.ORIN).read_bytes())
    raw[3] ^= 8
    (folder / small.ORIN).write_bytes(raw)  # after it was checked
    door = SshTarget(None, None, device.config, sys.executable)
    with pytest.raises(Refused, match="does not have its digest"):
        ssh.ship(folder, manifest, addresses.parse_device(f"device:{home}"), door, None, install=False, say=print)
    assert received(home) == []
    assert not list((home / "received" / ".incoming").glob("*.part"))


def test_a_device_that_is_not_there_or_has_no_python(device: Sshd, tmp_path: Path, home: Path) -> None:
    folder = small.made(tmp_path / "in", 61)
    for door in (
        SshTarget(servers.free_port(), None, device.config),
        SshTarget(None, None, device.config, "no-such-python"),
    ):
        to = addresses.parse_device(f"device:{home}")
        with pytest.raises(Unreachable, match=r"does not answer: .*(refused|not found)"):
            ssh.ship(folder, read_manifest(folder), to, door, None, install=True, say=print)


def test_a_device_that_keeps_the_line_and_says_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    silent = [sys.executable, "-c", "import time; time.sleep(60)"]
    monkeypatch.setattr(ssh, "_command", lambda device, door: silent)
    folder, begun = small.made(tmp_path / "in", 1), time.monotonic()
    with pytest.raises(Unreachable, match="pc did not finish within 0 s") as refused:
        ssh.ship(
            folder,
            read_manifest(folder),
            addresses.parse_device("me@pc:/x"),
            SshTarget(),
            None,
            install=False,
            timeout=0.3,
            say=print,
        )
    assert "--timeout" in refused.value.remedy
    assert time.monotonic() - begun < 20


def test_a_device_that_says_all_is_done_before_it_has_anything_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    early = [sys.executable, "-c", 'import os; os.close(0); print(\'deploytool:{"folder": "/x"}\', flush=True)']
    monkeypatch.setattr(ssh, "_command", lambda device, door: early)

    def late(to: IO[bytes], request: object) -> None:
        time.sleep(1)
        to.write(bytes(1 << 20))
        to.flush()

    monkeypatch.setattr(ssh, "_send_request", late)
    folder, to = small.made(tmp_path / "in", 1), addresses.parse_device("me@pc:/x")
    with pytest.raises(Unreachable, match="closed the connection before it had all files"):
        ssh.ship(folder, read_manifest(folder), to, SshTarget(), None, install=False, say=print)


def test_of_what_a_device_complains_the_last_line_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing = [sys.executable, "-c", "raise ImportError('no select here')"]
    monkeypatch.setattr(ssh, "_command", lambda device, door: failing)
    folder, to = small.made(tmp_path / "in", 1), addresses.parse_device("me@pc:/x")
    with pytest.raises(Unreachable, match=r"^me@pc does not answer: ImportError: no select here$"):
        ssh.ship(folder, read_manifest(folder), to, SshTarget(), None, install=False, say=print)


def test_a_device_that_prints_for_ever_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    endless = [sys.executable, "-c", "while True: print('welcome')"]
    monkeypatch.setattr(ssh, "_command", lambda device, door: endless)
    folder, to = small.made(tmp_path / "in", 1), addresses.parse_device("me@pc:/x")
    with pytest.raises(Unreachable, match="does not answer"):
        ssh.ship(folder, read_manifest(folder), to, SshTarget(), None, install=False, timeout=60, say=print)


@pytest.mark.parametrize("lacking", [None, 5, [5], [["x", 0]], [[0, -1]], [[0, 10**30]], [[0, "x"]]], ids=str)
def test_a_list_of_files_that_makes_no_sense_is_not_followed(
    tmp_path: Path, lacking: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """0 stands for the digest of a file of the bundle."""
    folder, to = small.made(tmp_path / "in", 1), addresses.parse_device("me@pc:/x")
    digest = all_files(read_manifest(folder))[0].sha256
    answer = json.dumps({"lacking": lacking}).replace("[0,", f'["{digest}",')
    odd = [sys.executable, "-c", f"import time; print({'deploytool:' + answer!r}, flush=True); time.sleep(60)"]
    monkeypatch.setattr(ssh, "_command", lambda device, door: odd)
    with pytest.raises(Unreachable, match="invalid list of files"):
        ssh.ship(folder, read_manifest(folder), to, SshTarget(), None, install=False, timeout=60, say=print)


def test_no_device_is_taken_for_an_option_of_ssh_and_none_asks_for_a_password() -> None:
    command = ssh._command(addresses.Device("-oProxyCommand=x", "/x"), SshTarget())
    assert command[-3:-1] == ["--", "-oProxyCommand=x"]
    assert "BatchMode=yes" in command[: command.index("--")]


@pytest.mark.parametrize(
    "text", ["device", "-oProxyCommand=x:/root", "me@:/x", "me@host:root", "a b:/x", "h;id:/x", "h:/x\n"]
)
def test_what_is_no_device(text: str) -> None:
    with pytest.raises(DeployError, match="is not a folder on a device"):
        addresses.parse_device(text)


def test_ship_installs_and_says_what_serves(
    device: Sshd, tmp_path: Path, home: Path, packed: Path, deploytool: Command
) -> None:
    python = tmp_path / "python with deploytool"
    python.write_text(f'#!/bin/sh\nexport PYTHONPATH="{ROOT}"\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    arguments = ("--ssh-config", str(device.config), "--identity", str(device.key), "--python", str(python))
    done = deploytool("ship", str(packed), f"device:{home}", "--port", str(device.port), *arguments)
    assert done.returncode == 0, done.stderr
    assert "installed as the current bundle, runs on ORT CPU" in done.stdout
    found = install.read_pointer(home)
    assert found is not None
    assert found.current == manifest_digest(packed)
    assert received(home) == []
    again = deploytool("ship", str(packed), f"device:{home}", *arguments, "--json", "--target", "orin")
    assert again.returncode == 0, again.stderr
    assert '"sent": 0' in again.stdout
    private, public = keys(tmp_path, "ours")
    signed = Path(shutil.copytree(packed, tmp_path / "signed"))
    for folder, key, problem in (
        (packed, public, "is not signed"),
        (signed, keys(tmp_path, "theirs")[1], "not by the key"),
    ):
        sign.sign(signed, private)
        unsigned = deploytool("ship", str(folder), f"device:{home}", *arguments, "--require-signature", str(key))
        assert unsigned.returncode == 8
        assert problem in unsigned.stderr
    held = deploytool("ship", str(signed), f"device:{home}", *arguments, "--require-signature", str(public), "--json")
    assert held.returncode == 0, held.stderr
    assert '"installed": true' in held.stdout
    verify.check_integrity(install.bundle_path(home, found.current), VerifyOptions(key=public))
    older = small.made(tmp_path / "older", 1, sequence=0)
    refused = deploytool("ship", str(older), f"device:{home}", *arguments)
    assert refused.returncode == 8
    assert "has sequence 0, and 1 was installed here" in refused.stderr
