"""Devices with Python alone get deploytool from the bundle, once and whole, and devices with their own need none."""

from __future__ import annotations

import ensurepip
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from deploytool.bundle import tool, tool_installer, tool_wheel
from deploytool.bundle.manifest import Role, describe_file, manifest_digest, read_manifest, write_manifest
from deploytool.device.arguments import MinimumBackend
from deploytool.fleet import run
from deploytool.fleet.actions import Action
from deploytool.fleet.result import DeviceResult, FleetResult, Outcome
from deploytool.fleet.run import Observer, Request
from deploytool.fleet.work import Proof
from deploytool.pipeline import runner
from deploytool.spec import Options, Stage
from tests.conftest import QUICK, ROOT
from tests.fleet import rigs
from tests.fleet.rigs import ORIN, Rig
from tests.transfer import servers, small

pytestmark = pytest.mark.integration
SIZE = 200_000  # bytes in the wheel that cannot be compressed


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    if not servers.SSHD:
        pytest.skip("no sshd on this machine: apt-get install openssh-server")
    with rigs.bare_rigs(tmp_path_factory.mktemp("bare"), 1) as (running,):
        yield running


@pytest.fixture
def rig(bare: Rig) -> Rig:
    """A device with a Python without packages and an empty root."""
    shutil.rmtree(bare.root)
    bare.root.mkdir()
    bare.control()
    bare.proxy.reset()
    return bare


def wheel(folder: Path, seed: int = 0, tag: str = "py3-none-any", zeros: int = 0) -> Path:
    """A wheel of the fake deploytool; another seed makes another tool. `zeros` bytes are only there once installed."""
    package, path = rigs.fake_package(folder / f"package{seed}", "fake_device.py"), folder / f"deploytool-0.1-{tag}.whl"
    (package / "deploytool/data").write_bytes(random.Random(seed).randbytes(SIZE))
    (package / "deploytool/zeros").write_bytes(bytes(zeros))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for each in [*sorted(package.rglob("*.py")), package / "deploytool/data", package / "deploytool/zeros"]:
            archive.write(each, each.relative_to(package))
        info = "deploytool-0.1.dist-info"
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: deploytool\nVersion: 0.1\n")
        archive.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


def pip_wheel() -> Path:
    (path,) = (Path(ensurepip.__file__).parent / "_bundled").glob("pip-*.whl")
    return path


def bundle(folder: Path, seed: int, *wheels: Path, sequence: int = 1) -> Path:
    """A bundle without a model, with the installer and these wheels in its tool."""
    small.make_bundle(folder, seed, 40_000, sequence)
    (folder / "tool").mkdir()
    shutil.copy(tool_installer.__file__, folder / "tool" / tool.INSTALLER)
    for path in (pip_wheel(), *wheels):
        shutil.copy(path, folder / "tool")
    names = sorted(path.name for path in (folder / "tool").iterdir())
    files = tuple(describe_file(folder, f"tool/{name}", Role.TOOL) for name in names)
    write_manifest(folder, replace(read_manifest(folder), tool=files))
    return folder


def deploy(rig: Rig, folder: Path, **words: object) -> DeviceResult:
    request = Request(devices=[rig.device], patience_s=30, **words)  # type: ignore[arg-type]
    return only(run.deploy(folder, request))


def only(made: FleetResult) -> DeviceResult:
    (result,) = made.devices
    return result


def tools(rig: Rig) -> list[str]:
    """What is in the folder of the tools, hidden names too."""
    folder = rig.root / "tools"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_a_device_with_python_alone_gets_deploytool_once(rig: Rig, tmp_path: Path) -> None:
    packed = wheel(tmp_path)
    first = bundle(tmp_path / "first", 1, packed)
    result = deploy(rig, first)
    assert result.outcome is Outcome.DONE, result.reason
    assert rig.current() == manifest_digest(first)
    assert tools(rig) == [result.tool]
    assert not list((rig.root / "received").iterdir())
    assert not list((rig.root / "tools" / result.tool / "lib").glob("*/site-packages/pip"))  # it ran from its wheel
    assert ".making" not in (rig.root / "tools" / result.tool / "bin/activate").read_text()
    made, sent = (rig.root / "tools" / result.tool).stat().st_ino, rig.proxy.up
    assert sent > SIZE + pip_wheel().stat().st_size

    second = bundle(tmp_path / "second", 2, packed, sequence=2)
    rig.proxy.reset()
    again = deploy(rig, second)
    assert (again.outcome, again.tool) == (Outcome.DONE, result.tool)
    assert (rig.root / "tools" / result.tool).stat().st_ino == made
    assert rig.proxy.up < pip_wheel().stat().st_size  # the wheels are there
    for action in (Action.VERIFY, Action.BUILD, Action.BENCH, Action.ROLLBACK):
        later = only(run.act(action, Request(devices=[rig.device])))
        assert (later.outcome, later.tool) == (Outcome.DONE, result.tool), later.reason
    assert only(run.ask(Action.STATUS, Request(devices=[rig.device]))).tool == result.tool
    assert only(run.ask(Action.DOCTOR, Request(devices=[rig.device]))).tool == result.tool


def test_a_tool_that_is_gone_or_broken_is_installed_from_the_installed_bundle(rig: Rig, tmp_path: Path) -> None:
    result = deploy(rig, bundle(tmp_path / "bundle", 1, wheel(tmp_path)))
    python = rig.root / "tools" / result.tool / "bin/python"
    python.unlink()
    python.symlink_to("/nowhere/python3")  # as after an update of the system's Python
    status = only(run.ask(Action.STATUS, Request(devices=[rig.device])))
    assert (status.outcome, status.exit_code) == (Outcome.FAILED, 5)
    assert status.reason == "deploytool is not installed there"
    assert "--with-tool" in status.remedy
    again = deploy(rig, tmp_path / "bundle")
    assert (again.outcome, again.tool) == (Outcome.DONE, result.tool), again.reason
    shutil.rmtree(rig.root / "tools")
    own = rig.root.parents[1] / "own"
    rigs.fake_package(own, "fake_device.py")
    try:
        verified = only(run.act(Action.VERIFY, Request(devices=[rig.device])))
        assert (verified.outcome, verified.tool, tools(rig)) == (Outcome.DONE, result.tool, [result.tool])
        shutil.rmtree(rig.root / "tools")
        installer = next(rig.root.glob("bundles/*/tool/install.py"))
        installer.write_text(f"{installer.read_text()}\n# another\n")
        verified = only(run.act(Action.VERIFY, Request(devices=[rig.device])))
        assert verified.reason == f"{installer} is not the file of the bundle"
        assert not (rig.root / "tools").exists()
    finally:
        shutil.rmtree(own)


def test_without_a_tool_the_deploytool_of_the_device_serves(three: Sequence[Rig], tmp_path: Path) -> None:
    plain = deploy(three[0], small.make_bundle(tmp_path / "plain", 1, 40_000))
    assert (plain.outcome, plain.tool, (three[0].root / "tools").exists()) == (Outcome.DONE, "", False)
    with_tool = deploy(three[0], bundle(tmp_path / "update", 2, wheel(tmp_path), sequence=2))
    assert with_tool.outcome is Outcome.DONE, with_tool.reason
    assert tools(three[0]) == [with_tool.tool]
    back = only(run.act(Action.ROLLBACK, Request(devices=[three[0].device])))
    assert (back.outcome, back.tool) == (Outcome.DONE, "")


def test_a_bundle_without_a_tool_is_served_by_the_last_one(rig: Rig, tmp_path: Path) -> None:
    plain = small.make_bundle(tmp_path / "plain", 2, 40_000, sequence=2)
    bare = deploy(rig, plain)
    assert (bare.outcome, bare.exit_code) == (Outcome.FAILED, 5)
    assert "deploytool is not installed there" in bare.reason
    assert not (rig.root / "received").exists()
    first = deploy(rig, bundle(tmp_path / "bundle", 1, wheel(tmp_path)))
    result = deploy(rig, plain)
    assert (result.outcome, result.tool) == (Outcome.DONE, first.tool), result.reason


def test_tools_of_bundles_that_are_gone_are_removed(rig: Rig, tmp_path: Path) -> None:
    names = []
    for number in (1, 2):
        folder = bundle(tmp_path / f"bundle{number}", number, wheel(tmp_path, number), sequence=number)
        names.append(deploy(rig, folder).tool)
    assert tools(rig) == sorted(names)
    for folder in (rig.root / "bundles").iterdir():
        if folder.name != rig.current():
            shutil.rmtree(folder)
    assert only(run.act(Action.VERIFY, Request(devices=[rig.device]))).outcome is Outcome.DONE
    assert tools(rig) == [names[1]]


def test_a_device_of_another_version_gets_the_tool(rig: Rig, tmp_path: Path) -> None:
    own = rig.root.parents[1] / "own"
    main = rigs.fake_package(own, "fake_device.py") / "deploytool/device/__main__.py"
    main.write_text('def main() -> None:\n    print(\'{"result": {"of": "another version"}, "error": null}\')\n')
    try:
        status = only(run.ask(Action.STATUS, Request(devices=[rig.device])))
        assert (status.reason, status.exit_code) == ("its deploytool is of another version", 5)
        result = deploy(rig, bundle(tmp_path / "bundle", 1, wheel(tmp_path)))
        assert (result.outcome, tools(rig)) == (Outcome.DONE, [result.tool]), result.reason
    finally:
        shutil.rmtree(own)


def test_a_device_that_cannot_run_the_bundle_gets_the_tool_alone(rig: Rig, tmp_path: Path) -> None:
    rig.control(environment=replace(ORIN, tensorrt={"tensorrt": "10.13.3"}))
    result = deploy(rig.named(target="orin"), bundle(tmp_path / "bundle", 1, wheel(tmp_path)))
    assert result.outcome is Outcome.REFUSED
    assert "it was built by tensorrt 10.3.0, and 10.13.3 is installed" in result.reason
    assert tools(rig) == [result.tool]
    assert not list((rig.root / "received").iterdir())
    assert not rig.commands()


def test_wheels_that_do_not_fit_are_named_and_leave_nothing(rig: Rig, tmp_path: Path) -> None:
    result = deploy(rig, bundle(tmp_path / "bundle", 1, wheel(tmp_path, tag="cp310-cp310-win_arm64")))
    assert (result.outcome, result.exit_code) == (Outcome.FAILED, 7)
    assert "the deploytool of the bundle cannot be installed: error: the wheels cannot be installed" in result.reason
    assert "--wheel" in result.remedy
    assert tools(rig) == []
    assert rig.current() is None


def test_a_disk_that_takes_no_more_leaves_nothing(tmp_path: Path) -> None:
    if not servers.SSHD:
        pytest.skip("no sshd on this machine: apt-get install openssh-server")
    folder = bundle(tmp_path / "bundle", 1, wheel(tmp_path, zeros=20 << 20))
    (tmp_path / "full").mkdir()
    with rigs.bare_rigs(tmp_path / "full", 1, "ulimit -f 20000") as (rig,):  # blocks of 512 bytes
        result = deploy(rig, folder)
        assert result.outcome is Outcome.FAILED
        assert "the wheels cannot be installed" in result.reason
        assert tools(rig) == []


def job_process(rig: Rig) -> int:
    """The process of the job that is at work, once it installs a tool."""
    end = time.monotonic() + 60
    while not list(rig.root.glob("tools/.*.making")):
        assert time.monotonic() < end, "no tool is installed beside its place"
        time.sleep(0.02)
    (alive,) = rig.root.glob("jobs/*/alive")
    return rigs.holder(alive)


@pytest.mark.parametrize("kill", [os.killpg, os.kill], ids=["with its installer", "alone"])
def test_an_installation_that_is_killed_is_never_used(
    rig: Rig, tmp_path: Path, kill: Callable[[int, int], None]
) -> None:
    """If the job is killed alone, its installer goes on, and the next job waits for it."""
    folder = bundle(tmp_path / "bundle", 1, wheel(tmp_path))
    results: list[DeviceResult] = []
    worker = threading.Thread(target=lambda: results.append(deploy(rig, folder)))
    worker.start()
    kill(job_process(rig), signal.SIGKILL)
    lines: list[str] = []
    observer = Observer(lambda _, line: lines.append(line))
    again = only(run.deploy(folder, Request(devices=[rig.device], patience_s=30), observer))
    worker.join()
    assert results[0].outcome is Outcome.FAILED
    assert "the device was restarted, or the process was killed" in results[0].reason
    assert (again.outcome, tools(rig)) == (Outcome.DONE, [again.tool]), again.reason
    assert ("installing the deploytool of the bundle" in lines) == (kill is os.killpg)


def test_a_line_that_is_cut_while_the_tool_is_sent(rig: Rig, tmp_path: Path) -> None:
    folder, cut = bundle(tmp_path / "bundle", 1, wheel(tmp_path)), 300_000

    def mend() -> None:
        while rig.proxy.up < cut:
            time.sleep(0.02)
        time.sleep(1)
        rig.proxy.cut_up = None

    rig.proxy.cut_up = cut
    mender = threading.Thread(target=mend)
    mender.start()
    result = deploy(rig, folder)
    mender.join()
    assert result.outcome is Outcome.DONE, result.reason
    assert result.cuts
    assert tools(rig) == [result.tool]
    assert not list((rig.root / "received").iterdir())


@pytest.mark.sweep
def test_a_bare_device_proves_a_real_bundle_offline(packed: Path, bare: Rig, tmp_path: Path) -> None:
    """One command from a Python without packages to a proved bundle; the wheels are fetched here, on the host."""
    needed = ["numpy", "pillow", "onnxruntime", "pip"]
    fetch = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-c", str(ROOT / "constraints.txt")]
    subprocess.run([*fetch, "-d", str(tmp_path / "wheels"), *needed], check=True, capture_output=True)
    home = Path(shutil.copytree(packed.parents[1], tmp_path / "run"))
    wheels = tool.wheels(sorted((tmp_path / "wheels").iterdir()))
    options = Options(**{**vars(QUICK), "tool": tool_wheel.digest(), "wheels": wheels})
    folder = runner.extend(Stage.PACK, options, home).path.parent
    shutil.rmtree(bare.root)
    bare.root.mkdir()
    result = deploy(bare, folder, proof=Proof(require=MinimumBackend.CPU, seconds=0.2))
    assert result.outcome is Outcome.DONE, result.reason
    assert result.after is not None
    assert (result.after.environment.onnxruntime, tools(bare)) != ("", [])
    assert result.steps[-1].result["tier"] == "ORT CPU"
