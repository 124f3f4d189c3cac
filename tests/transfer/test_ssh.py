"""Ships bundles to a device behind sshd: missing files only, verified there, atomically, and installed."""

from __future__ import annotations

import json
import os
import random
import shlex
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
from tests.conftest import PYTHONPATH, ROOT, Command
from tests.device.keys import keys
from tests.transfer import servers, small
from tests.transfer.servers import Proxy, Sshd


def ship_bundle(
    folder: Path, root: Path, device: Sshd, *, target: str | None = None, port: int | None = None
) -> ShipResult:
    connection = SshTarget(port, None, device.config, sys.executable)
    to, kind = addresses.parse_device(f"device:{root}"), subset.parse(target)
    return ssh.ship(folder, read_manifest(folder), to, connection, kind, install=False, say=lambda line: None)


def visible_bundles(root: Path) -> list[str]:
    """The names of the bundles that are visible on the device."""
    home = root / "received"
    return sorted(path.name for path in home.iterdir() if not path.name.startswith(".")) if home.exists() else []


def test_a_bundle_arrives_unchanged(device: Sshd, tmp_path: Path, home: Path) -> None:
    folder = small.make_bundle(tmp_path / "in", 1)
    (folder / "model.sig").write_text("signed")
    done = ship_bundle(folder, home, device)
    assert Path(done.folder) == home / "received" / manifest_digest(folder)
    assert small.contents(Path(done.folder)) == small.contents(folder)
    assert visible_bundles(home) == [manifest_digest(folder)]
    published = Path(done.folder).stat().st_ino
    assert ship_bundle(folder, home, device).sent == 0
    assert Path(done.folder).stat().st_ino == published  # a job may be at work on it
    (folder / "model.sig").write_text("signed by another")
    assert ship_bundle(folder, home, device).sent == 0
    assert small.contents(Path(done.folder)) == small.contents(folder)
    assert not (home / "received" / ".incoming").exists()


def test_only_missing_files_for_the_target_are_sent(device: Sshd, tmp_path: Path, home: Path) -> None:
    one, two = (
        small.make_bundle(tmp_path / "one", 2, 40_000),
        small.make_bundle(tmp_path / "two", 2, 40_000, sequence=2),
    )
    first, second = (ship_bundle(folder, home, device, target="orin") for folder in (one, two))
    assert (first.left_out, first.there) == (1, 0)
    assert second.sent == 0
    assert set(small.contents(two)) - set(small.contents(Path(second.folder))) == {small.RTX40}
    verify.check_integrity(Path(second.folder))


@pytest.mark.parametrize("count", [2, pytest.param(20, marks=pytest.mark.sweep)])
def test_updates_of_the_same_size_and_time_are_delivered(device: Sshd, tmp_path: Path, home: Path, count: int) -> None:
    for number in range(count):
        folder = small.make_bundle(tmp_path / "in", number)
        for path in folder.rglob("*"):
            os.utime(path, (1_700_000_000, 1_700_000_000))
        pointer = install.install(Path(ship_bundle(folder, home, device).folder), home, lambda checked: None)
        assert small.contents(install.bundle_path(home, pointer.current)) == small.contents(folder)
        shutil.rmtree(folder)


def test_a_corrupt_file_on_the_device_is_sent_again(device: Sshd, tmp_path: Path, home: Path) -> None:
    one, two = small.make_bundle(tmp_path / "one", 3), small.make_bundle(tmp_path / "two", 3, sequence=2)
    path = Path(ship_bundle(one, home, device).folder)
    raw = bytearray((path / small.ORIN).read_bytes())
    raw[7] ^= 1
    (path / small.ORIN).write_bytes(raw)
    second = ship_bundle(two, home, device)
    assert second.sent == (two / small.ORIN).stat().st_size
    assert small.contents(Path(second.folder)) == small.contents(two)
    assert ship_bundle(one, home, device).sent == 0  # the file of the second is reused
    assert small.contents(path) == small.contents(one)


@pytest.mark.parametrize("count", [1, pytest.param(12, marks=pytest.mark.sweep)])
def test_a_cut_transfer_is_not_visible_and_resumes(device: Sshd, tmp_path: Path, home: Path, count: int) -> None:
    rng = random.Random(count)
    with servers.proxy(device.port) as proxy:
        for number in range(count):
            folder = small.make_bundle(tmp_path / f"in{number}", 100 * count + number, 700_000)
            total = sum(file.size for file in all_files(read_manifest(folder)))
            before = visible_bundles(home)
            proxy.reset()
            proxy.cut_up = rng.randrange(40_000, total)
            with pytest.raises(Unreachable):
                ship_bundle(folder, home, device, port=proxy.port)
            assert visible_bundles(home) == before
            received_bytes = wait_for_parts(home)
            proxy.reset()
            done = ship_bundle(folder, home, device, port=proxy.port)
            assert done.there == received_bytes
            assert small.contents(Path(done.folder)) == small.contents(folder)


@pytest.mark.parametrize("count", [1, pytest.param(10, marks=pytest.mark.sweep)])
def test_a_killed_ship_is_not_visible_and_resumes(device: Sshd, tmp_path: Path, home: Path, count: int) -> None:
    rng, folder, alive = random.Random(count), small.make_bundle(tmp_path / "in", 50, 4_000_000), 0
    program = (
        "import sys; from pathlib import Path; from tests.transfer import servers, test_ssh as it;"
        "folder, root, port, config, key = sys.argv[1:];"
        "it.ship_bundle(Path(folder), Path(root), servers.Sshd(int(port), Path(config), Path(key)), port=int(port))"
    )
    with servers.proxy(device.port) as proxy:
        for number in range(count):
            root = home / str(number)
            proxy.reset()
            arguments = [str(folder), str(root), str(proxy.port), str(device.config), str(device.key)]
            alive += _kill_after(program, arguments, proxy, rng.randrange(20_000, 28_000_000))
            assert proxy.up > 20_000
            if visible_bundles(root):
                assert small.contents(root / "received" / manifest_digest(folder)) == small.contents(folder)
            wait_for_parts(root)
            assert small.contents(Path(ship_bundle(folder, root, device).folder)) == small.contents(folder)
    assert alive >= count - 1


def _kill_after(program: str, arguments: list[str], proxy: Proxy, after: int) -> bool:
    with subprocess.Popen([sys.executable, "-c", program, *arguments], cwd=ROOT, stderr=subprocess.DEVNULL) as running:
        while proxy.up < after and running.poll() is None:
            time.sleep(0.0005)
        alive = running.poll() is None
        running.send_signal(signal.SIGKILL)
    return alive


@pytest.mark.parametrize("count", [6, pytest.param(40, marks=pytest.mark.sweep)])
def test_a_receiver_that_is_killed_at_any_moment_leaves_all_or_nothing(tmp_path: Path, home: Path, count: int) -> None:
    """All bytes are sent at once, so that the kill hits the hashing, the assembly or the rename."""
    rng, folder, shown = random.Random(count), small.make_bundle(tmp_path / "in", 51), 0
    duration = _receive(folder, home / "whole", None)  # seconds without a kill on this machine
    for number in range(count):
        root = home / str(number)
        _receive(folder, root, rng.uniform(0, 1.5 * duration))
        shown += len(visible_bundles(root))
        assert visible_bundles(root) in ([], [manifest_digest(folder)])
        for path in visible_bundles(root):
            assert small.contents(root / "received" / path) == small.contents(folder)
    assert count < 40 or 0 < shown < count


def _receive(folder: Path, root: Path, after: float | None) -> float:
    """Sends a receiver all files, and kills it `after` seconds after its request; returns how many seconds it ran."""
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
        start = time.monotonic()
        if after is not None:
            time.sleep(after)
            running.kill()
        running.wait()
        return time.monotonic() - start


def wait_for_parts(root: Path) -> int:
    """The number of bytes on the device once no more arrive and the lock is free."""
    stage, before, now = root / "received" / ".incoming", -1, 0
    while before != now or _is_locked(stage / "lock"):
        time.sleep(0.15)
        sizes = [path.stat().st_size for path in stage.rglob("*") if path.is_file()] if stage.exists() else []
        before, now = now, sum(sizes)
    return now


def _is_locked(lock: Path) -> bool:
    return lock.exists() and subprocess.run(["flock", "-n", str(lock), "true"], check=False).returncode != 0


def test_the_install_on_the_device_requires_the_signature(device: Sshd, tmp_path: Path, home: Path) -> None:
    """The device verifies the signature with the key that is sent along, even if the host did not."""
    folder, (private, _), (_, public) = (
        small.make_bundle(tmp_path / "in", 62),
        keys(tmp_path, "ours"),
        keys(tmp_path, "theirs"),
    )
    sign.sign(folder, private)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexport PYTHONPATH="{PYTHONPATH}"\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    to, connection = addresses.parse_device(f"device:{home}"), SshTarget(None, None, device.config, str(python))
    with pytest.raises(Refused, match="is not by the key"):
        ssh.ship(folder, read_manifest(folder), to, connection, None, key=public, install=True, say=print)
    assert install.read_pointer(home) is None


def test_a_file_that_changes_while_it_is_sent_is_refused(device: Sshd, tmp_path: Path, home: Path) -> None:
    folder = small.make_bundle(tmp_path / "in", 60)
    manifest = read_manifest(folder)
    raw = bytearray((folder / small.ORIN).read_bytes())
    raw[3] ^= 8
    (folder / small.ORIN).write_bytes(raw)  # after it was checked
    connection = SshTarget(None, None, device.config, sys.executable)
    with pytest.raises(Refused, match="does not have its digest"):
        ssh.ship(folder, manifest, addresses.parse_device(f"device:{home}"), connection, None, install=False, say=print)
    assert visible_bundles(home) == []
    assert not list((home / "received" / ".incoming").glob("*.part"))


def test_a_missing_device_or_python_is_an_error(device: Sshd, tmp_path: Path, home: Path) -> None:
    folder = small.make_bundle(tmp_path / "in", 61)
    for connection in (
        SshTarget(servers.free_port(), None, device.config),
        SshTarget(None, None, device.config, "no-such-python"),
    ):
        to = addresses.parse_device(f"device:{home}")
        with pytest.raises(Unreachable, match=r"does not answer: .*(refused|not found)"):
            ssh.ship(folder, read_manifest(folder), to, connection, None, install=True, say=print)


def test_the_timeout_applies_to_a_silent_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    silent = [sys.executable, "-c", "import time; time.sleep(60)"]
    monkeypatch.setattr(ssh, "_command", lambda device, connection: silent)
    folder, start = small.make_bundle(tmp_path / "in", 1), time.monotonic()
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
    assert time.monotonic() - start < 20


def test_a_device_that_reports_success_too_early_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finishing_early = [
        sys.executable,
        "-c",
        'import os; os.close(0); print(\'deploytool:{"folder": "/x"}\', flush=True)',
    ]
    monkeypatch.setattr(ssh, "_command", lambda device, connection: finishing_early)

    def send_late(to: IO[bytes], request: object) -> None:
        time.sleep(1)
        to.write(bytes(1 << 20))
        to.flush()

    monkeypatch.setattr(ssh, "_send_request", send_late)
    folder, to = small.make_bundle(tmp_path / "in", 1), addresses.parse_device("me@pc:/x")
    with pytest.raises(Unreachable, match="closed the connection before it had all files"):
        ssh.ship(folder, read_manifest(folder), to, SshTarget(), None, install=False, say=print)


def test_the_error_shows_the_last_line_from_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing = [sys.executable, "-c", "raise ImportError('no select here')"]
    monkeypatch.setattr(ssh, "_command", lambda device, connection: failing)
    folder, to = small.make_bundle(tmp_path / "in", 1), addresses.parse_device("me@pc:/x")
    with pytest.raises(Unreachable, match=r"^me@pc does not answer: ImportError: no select here$"):
        ssh.ship(folder, read_manifest(folder), to, SshTarget(), None, install=False, say=print)


@pytest.mark.parametrize("prints", ["print('welcome')", "print('x' * 1000, end='', flush=True); time.sleep(0.001)"])
def test_a_device_that_prints_for_ever_is_left(tmp_path: Path, prints: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh, "_LONGEST", 1000)
    endless = [sys.executable, "-c", f"import time\nwhile True: {prints}"]
    monkeypatch.setattr(ssh, "_command", lambda device, connection: endless)
    folder, to = small.make_bundle(tmp_path / "in", 1), addresses.parse_device("me@pc:/x")
    with pytest.raises(Unreachable, match="does not answer"):
        ssh.ship(folder, read_manifest(folder), to, SshTarget(), None, install=False, timeout=60, say=print)


@pytest.mark.parametrize("answer", ["5", "[]", "{", '"problem"'])
def test_an_answer_of_another_type_is_skipped(tmp_path: Path, answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = [sys.executable, "-c", f"print({'deploytool:' + answer!r})"]
    monkeypatch.setattr(ssh, "_command", lambda device, door: odd)
    folder, to = small.make_bundle(tmp_path / "in", 1), addresses.parse_device("me@pc:/x")
    with pytest.raises(Unreachable, match="does not answer"):
        ssh.ship(folder, read_manifest(folder), to, SshTarget(), None, install=False, timeout=60, say=print)


@pytest.mark.parametrize("lacking", [None, 5, [5], [["x", 0]], [[0, -1]], [[0, 10**30]], [[0, "x"]]], ids=str)
def test_a_list_of_files_that_makes_no_sense_is_not_followed(
    tmp_path: Path, lacking: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """0 stands for the digest of a file of the bundle."""
    folder, to = small.make_bundle(tmp_path / "in", 1), addresses.parse_device("me@pc:/x")
    digest = all_files(read_manifest(folder))[0].sha256
    answer = json.dumps({"lacking": lacking}).replace("[0,", f'["{digest}",')
    odd = [sys.executable, "-c", f"import time; print({'deploytool:' + answer!r}, flush=True); time.sleep(60)"]
    monkeypatch.setattr(ssh, "_command", lambda device, connection: odd)
    with pytest.raises(Unreachable, match="invalid list of files"):
        ssh.ship(folder, read_manifest(folder), to, SshTarget(), None, install=False, timeout=60, say=print)


def test_no_device_is_taken_for_an_option_of_ssh_and_none_asks_for_a_password() -> None:
    command = ssh._command(addresses.Device("-oProxyCommand=x", "/x"), SshTarget(python="a b; id"))
    assert command[-3:-1] == ["--", "-oProxyCommand=x"]
    assert "BatchMode=yes" in command[: command.index("--")]
    assert shlex.split(command[-1])[:2] == ["a b; id", "-c"]


@pytest.mark.parametrize(
    "text", ["device", "-oProxyCommand=x:/root", "me@:/x", "me@host:root", "a b:/x", "h;id:/x", "h:/x\n"]
)
def test_an_invalid_device_address_is_refused(text: str) -> None:
    with pytest.raises(DeployError, match="is not a folder on a device"):
        addresses.parse_device(text)


def test_ship_installs_and_reports_the_backend(
    device: Sshd, tmp_path: Path, home: Path, packed: Path, deploytool: Command
) -> None:
    python = tmp_path / "python with deploytool"
    python.write_text(f'#!/bin/sh\nexport PYTHONPATH="{PYTHONPATH}"\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    arguments = ("--ssh-config", str(device.config), "--identity", str(device.key), "--python", str(python))
    done = deploytool("ship", str(packed), f"device:{home}", "--port", str(device.port), *arguments)
    assert done.returncode == 0, done.stderr
    assert "installed as the current bundle, runs on ORT CPU" in done.stdout
    found = install.read_pointer(home)
    assert found is not None
    assert found.current == manifest_digest(packed)
    assert visible_bundles(home) == []
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
    older = small.make_bundle(tmp_path / "older", 1, sequence=0)
    refused = deploytool("ship", str(older), f"device:{home}", *arguments)
    assert refused.returncode == 8
    assert "has sequence 0, and 1 was installed here" in refused.stderr
