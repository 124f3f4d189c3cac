"""Deploys to devices on loopback: canaries first, refusals before a byte is sent, and lines that are cut."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from deploytool.bundle.manifest import manifest_digest
from deploytool.device.arguments import MinimumBackend
from deploytool.errors import Unreachable
from deploytool.fleet import run, session
from deploytool.fleet.actions import Action
from deploytool.fleet.result import DeviceResult, FleetResult, Outcome
from deploytool.fleet.run import Observer, Request
from deploytool.fleet.work import Proof
from deploytool.serde import Json
from deploytool.transfer.ssh import ShipResult
from tests.fleet import rigs
from tests.fleet.rigs import ORIN, Rig
from tests.transfer import small

pytestmark = pytest.mark.integration
TOO_SLOW = {"problem": "too slow", "remedy": "be faster", "exit_code": 4}


def request(rigs: Sequence[Rig], **words: object) -> Request:
    return Request(devices=[rig.device for rig in rigs], patience_s=20, **words)  # type: ignore[arg-type]


def outcomes(made: FleetResult) -> list[Outcome]:
    return [result.outcome for result in made.devices]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return small.make_bundle(tmp_path / "bundle", 1, 40_000)


def update(tmp_path: Path) -> Path:
    return small.make_bundle(tmp_path / "update", 2, 40_000, sequence=2)


def test_a_wrong_host_key_and_a_refused_login_are_told_at_once(
    three: Sequence[Rig], bundle: Path, tmp_path: Path
) -> None:
    """Neither helps to try again, so that the patience of 20 s is not used up."""
    folders = [rig.root.parent for rig in three]
    (tmp_path / "known").write_text(f"device {(folders[1] / 'host.pub').read_text()}")
    changes = [(folders[0] / "known", tmp_path / "known"), (folders[1] / "key\n", tmp_path / "key\n")]
    (tmp_path / "key").write_bytes((folders[0] / "key").read_bytes())
    (tmp_path / "key").chmod(0o600)
    devices = []
    for rig, (old, new) in zip(three, changes, strict=False):
        config = tmp_path / rig.device.name
        text = (rig.root.parent / "ssh_config").read_text()
        assert str(old) in text
        config.write_text(text.replace(str(old), str(new)))
        devices.append(rig.named(ssh=replace(rig.device.ssh, config=config)))
    began = time.monotonic()
    made = run.deploy(bundle, request([*devices, three[2]]))
    assert outcomes(made)[2] is Outcome.DONE
    assert [result.exit_code for result in made.devices] == [2, 2, 0]
    assert "the host key of device0 is not in known_hosts, or another one is" in made.devices[0].reason
    assert "ssh-keygen -R" in made.devices[0].remedy
    assert "device1 refuses the login" in made.devices[1].reason
    assert all("tried" not in result.reason for result in made.devices)
    assert time.monotonic() - began < 60


def test_a_bundle_is_installed_and_measured_on_every_device(three: Sequence[Rig], bundle: Path) -> None:
    made = run.deploy(bundle, request(three))
    assert outcomes(made) == [Outcome.DONE] * 3, made
    for rig, result in zip(three, made.devices, strict=True):
        assert rig.current() == result.digest == manifest_digest(bundle)
        assert [step.command[0] for step in result.steps] == ["install", "bench"]
        assert result.after is not None
        assert result.after.pointer is not None
        assert result.after.pointer.current == result.digest
        assert not list((rig.root / "received").iterdir())


def test_the_others_begin_after_the_canary_has_proved_the_bundle(three: Sequence[Rig], bundle: Path) -> None:
    for rig in three:
        rig.control(sleep={"bench": 0.3})
    made = run.deploy(bundle, request(three, first=1))
    assert outcomes(made) == [Outcome.DONE] * 3
    times = sorted((rig.commands()[0]["began"], rig.commands()[-1]["ended"]) for rig in three)
    assert all(began >= times[0][1] for began, _ in times[1:])


def test_a_named_canary_is_the_first(three: Sequence[Rig], bundle: Path) -> None:
    three[2].control(sleep={"bench": 0.3})
    made = run.deploy(bundle, request(three, canaries=("device2",)))
    assert outcomes(made) == [Outcome.DONE] * 3
    ended = three[2].commands()[-1]["ended"]
    assert all(rig.commands()[0]["began"] >= ended for rig in three[:2])


def test_a_named_canary_that_is_refused_stops_the_rollout(three: Sequence[Rig], bundle: Path) -> None:
    devices = [three[0], three[1].named(target="orin"), three[2]]  # which it is not
    made = run.deploy(bundle, request(devices, canaries=("device1",)))
    assert outcomes(made) == [Outcome.NOT_STARTED, Outcome.REFUSED, Outcome.NOT_STARTED]
    assert made.devices[0].reason == "device1 did not prove the bundle, and the rollout stopped"
    assert not any(rig.commands() for rig in three)


def test_a_failing_canary_stops_the_rollout_and_is_rolled_back(
    three: Sequence[Rig], bundle: Path, tmp_path: Path
) -> None:
    run.deploy(bundle, request(three))
    for rig in three:
        rig.control(fail={"bench": TOO_SLOW})
    made = run.deploy(update(tmp_path), request(three, first=1))
    assert sorted(outcomes(made)) == [Outcome.FAILED, Outcome.NOT_STARTED, Outcome.NOT_STARTED]
    assert [rig.current() for rig in three] == [manifest_digest(bundle)] * 3
    failed = next(result for result in made.devices if result.outcome is Outcome.FAILED)
    assert (failed.reason, failed.exit_code, failed.rolled_back) == ("too slow", 4, True)
    others = [rig.commands() for rig in three if rig.device.name != failed.device]
    assert all(len(commands) == 2 for commands in others)  # of the first bundle


def test_the_canaries_that_proved_a_bundle_are_rolled_back_too(
    three: Sequence[Rig], bundle: Path, tmp_path: Path
) -> None:
    run.deploy(bundle, request(three))
    three[1].control(fail={"bench": TOO_SLOW}, sleep={"bench": 0.5})
    made = run.deploy(update(tmp_path), request(three[:2], first=2))
    assert outcomes(made) == [Outcome.FAILED, Outcome.FAILED]
    assert made.devices[0].reason == "device1 did not prove the bundle"
    assert [result.rolled_back for result in made.devices] == [True, True]
    assert [rig.current() for rig in three] == [manifest_digest(bundle)] * 3


def test_a_canary_that_cannot_be_reached_stops_the_rollout(
    three: Sequence[Rig], bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(*_: object) -> ShipResult:
        raise Unreachable("it does not answer", "try again")

    monkeypatch.setattr(run, "_send", silent)
    made = run.deploy(bundle, replace(request(three, first=1), patience_s=0.1))
    assert sorted(outcomes(made)) == [Outcome.NOT_STARTED, Outcome.NOT_STARTED, Outcome.UNREACHABLE]
    assert all(result.digest == manifest_digest(bundle) for result in made.devices)


def test_a_device_is_refused_before_a_byte_of_the_bundle_is_sent(three: Sequence[Rig], tmp_path: Path) -> None:
    bundle = small.make_bundle(tmp_path / "bundle", 1, 400_000)
    three[0].control(environment=ORIN)
    three[1].control(environment=replace(ORIN, tensorrt={"tensorrt": "10.13.3"}))
    three[2].control(environment=replace(ORIN, capability="8.9", gpu="RTX"))
    devices = [rig.named(target="orin") for rig in three]
    made = run.deploy(bundle, request(devices))
    assert outcomes(made) == [Outcome.DONE, Outcome.REFUSED, Outcome.REFUSED]
    assert "it was built by tensorrt 10.3.0, and 10.13.3 is installed" in made.devices[1].reason
    assert "it is configured as orin with compute capability 8.7, and RTX has 8.9" in made.devices[2].reason
    for rig in three[1:]:
        assert rig.proxy.up < 60_000  # the handshakes of ssh and a question; the bundle has two million bytes
        assert not (rig.root / "received").exists()
        assert not rig.commands()
    assert three[0].proxy.up > 400_000


def test_a_dead_device_delays_no_other_and_is_reported(
    three: Sequence[Rig], bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It accepts a connection and says nothing until all others are done, which need the only slot one by one."""
    monkeypatch.setattr(run, "ASK_PATIENCE_S", 0.1)
    silent = socket.create_server(("127.0.0.1", 0))
    port = int(silent.getsockname()[1])
    dead = replace(three[0].device, name="dead", ssh=replace(three[0].device.ssh, port=port, connect_s=120))
    ended: list[str] = []

    def watch(result: DeviceResult) -> None:
        ended.append(result.device)
        if len(ended) == len(three):
            silent.close()

    devices = [dead, *(rig.device for rig in three)]
    made = run.deploy(bundle, Request(devices=devices, at_once=1, first=1), Observer(ended=watch))
    assert outcomes(made) == [Outcome.UNREACHABLE, *[Outcome.DONE] * 3]
    assert made.devices[0].reason.startswith("dead does not answer: ")
    assert " times in " in made.devices[0].reason
    assert ended[-1] == "dead"


def test_a_line_that_is_cut_while_the_state_is_asked_is_tried_again(three: Sequence[Rig], bundle: Path) -> None:
    """The line of the first device is down for ten seconds, which delays no other."""
    lines: list[tuple[str, str]] = []
    doing: list[tuple[str, str]] = []
    ended: list[str] = []
    three[0].proxy.cut_down = 0

    def mend() -> None:
        time.sleep(10)
        assert sorted(ended) == ["device1", "device2"]
        three[0].proxy.reset()

    mender = threading.Thread(target=mend)
    mender.start()
    observer = Observer(
        lambda *said: lines.append(said), lambda *now: doing.append(now), lambda result: ended.append(result.device)
    )
    made = run.deploy(bundle, replace(request(three), patience_s=600), observer)
    mender.join()
    assert outcomes(made) == [Outcome.DONE] * 3, made.devices[0].reason
    assert ended[-1] == "device0"
    assert [result.cuts > 1 for result in made.devices] == [True, False, False]
    again = [line for name, line in lines if "trying again for 60 s" in line and name == "device0"]
    assert len(again) == 1  # one line for all attempts
    assert [what for name, what in doing if name == "device1"] == [
        "is asked for its state",
        "gets what it lacks",
        "installs and proves the bundle",
    ]


def test_a_job_survives_lines_that_are_cut_at_random_bytes(
    three: Sequence[Rig], bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "ASK_PATIENCE_S", 300)  # where ssh takes seconds, most connections are cut at once
    chance = random.Random(5)
    lines: dict[str, list[str]] = {rig.device.name: [] for rig in three}
    ended = threading.Event()

    def cut() -> None:
        while not ended.wait(0.5):
            for rig in three:
                limit = chance.choice((None, None, chance.randrange(2_000)))
                rig.proxy.cut_down = None if limit is None else rig.proxy.down + limit

    for rig in three:
        rig.control(sleep={"install": 3.0}, lines=60)
    cutter = threading.Thread(target=cut)
    cutter.start()
    try:
        patient = replace(request(three), patience_s=300)
        made = run.deploy(bundle, patient, Observer(lambda name, line: lines[name].append(line)))
    finally:
        ended.set()
        cutter.join()
    assert outcomes(made) == [Outcome.DONE] * 3, [result.reason for result in made.devices]
    assert sum(result.cuts for result in made.devices) > 2
    for rig in three:
        assert [step["command"] for step in rig.commands()] == ["install", "bench"]
        said = [line for line in lines[rig.device.name] if line.startswith("line ")]
        assert said == [f"line {number}" for number in range(60)] * 3  # of install, bench and status, each line once


def test_a_job_that_is_at_work_is_found_again(three: Sequence[Rig], bundle: Path) -> None:
    rig = three[0]
    run.deploy(bundle, request([rig]))
    rig.control(sleep={"build": 2.0})
    results: list[FleetResult] = []
    workers = [threading.Thread(target=lambda: results.append(run.act(Action.BUILD, request([rig])))) for _ in range(2)]
    for worker in workers:
        worker.start()
        time.sleep(0.6)
    for worker in workers:
        worker.join()
    assert [outcomes(made) for made in results] == [[Outcome.DONE]] * 2
    assert [step["command"] for step in rig.commands()].count("build") == 1


def test_jobs_of_one_device_follow_each_other(three: Sequence[Rig], bundle: Path) -> None:
    rig = three[0]
    run.deploy(bundle, request([rig]))
    rig.control(sleep={"bench": 0.8, "verify": 0.8})
    workers = [
        threading.Thread(target=run.act, args=(action, request([rig]))) for action in (Action.BENCH, Action.VERIFY)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    first, second = sorted(rig.commands()[2:], key=lambda step: float(step["began"]))
    assert second["began"] >= first["ended"]


def test_a_job_whose_process_is_killed_is_reported(three: Sequence[Rig], bundle: Path) -> None:
    rig = three[0]
    run.deploy(bundle, request([rig]))
    rig.control(sleep={"build": 30.0})

    def kill() -> None:
        while not (jobs := list(rig.root.glob("jobs/build-*/started"))):
            time.sleep(0.05)
        os.killpg(rigs.holder(jobs[0].with_name("alive")), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    made = run.act(Action.BUILD, request([rig]))
    killer.join()
    assert outcomes(made) == [Outcome.FAILED]
    assert "the device was restarted, or the process was killed" in made.devices[0].reason


def test_rollback_returns_to_the_previous_bundle(three: Sequence[Rig], bundle: Path, tmp_path: Path) -> None:
    rig = three[0]
    assert run.act(Action.ROLLBACK, request([rig])).devices[0].reason == f"nothing is installed in {rig.root}"
    run.deploy(bundle, request([rig]))
    assert "there is no previous bundle" in run.act(Action.ROLLBACK, request([rig])).devices[0].reason
    run.deploy(update(tmp_path), request([rig]))
    (result,) = run.act(Action.ROLLBACK, request([rig])).devices
    assert (result.outcome, rig.current()) == (Outcome.DONE, result.digest)
    assert result.digest == manifest_digest(bundle)


def test_a_result_about_another_bundle_is_not_taken(
    three: Sequence[Rig], bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = three[0]
    run.deploy(bundle, request([rig]))
    original = session.Session.work

    def other(self: session.Session, request: Mapping[str, Json]) -> session.Answer:
        raw = json.dumps(original(self, request)).replace(manifest_digest(bundle), "0" * 64)
        return dict(json.loads(raw))

    monkeypatch.setattr(session.Session, "work", other)
    (result,) = run.act(Action.VERIFY, request([rig])).devices
    assert (result.outcome, result.exit_code) == (Outcome.FAILED, 8)


def test_a_device_without_deploytool_or_python_is_reported(three: Sequence[Rig], bundle: Path) -> None:
    rig = three[0]
    odd = [replace(rig.device, ssh=replace(rig.device.ssh, python=python)) for python in ("no-python", "/bin/true")]
    made = run.deploy(bundle, Request(devices=odd, proof=Proof(require=MinimumBackend.CPU)))
    assert outcomes(made) == [Outcome.FAILED] * 2
    assert all("does not start there" in result.reason for result in made.devices)
    assert not (rig.root / "received").exists()
