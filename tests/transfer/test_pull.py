"""A bundle from a real registry: whole, in part, spoilt on the way, cut and resumed."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from deploytool.bundle.manifest import File, manifest_digest
from deploytool.device import verify
from deploytool.errors import BadInput, DeployError, Refused, Unreachable
from deploytool.transfer import download, pull, push
from deploytool.transfer.sources import Source
from tests.conftest import ROOT
from tests.transfer import small
from tests.transfer.servers import Proxy, Registry
from tests.transfer.trips import address, killed, pulled, pushed


def test_a_device_pulls_only_what_its_target_needs(served: Registry, tmp_path: Path) -> None:
    folder = small.made(tmp_path / "in", 2)
    pushed(folder, served.port, "part")
    served.blob(hashlib.sha256((folder / small.RTX40).read_bytes()).hexdigest()).unlink()  # nobody asks for it
    landed = pulled(address(served, "part"), tmp_path / "orin", "orin")
    assert set(small.contents(folder)) - set(small.contents(tmp_path / "orin")) == {small.RTX40}
    assert (landed.left_out, landed.files) == (1, 6)
    steps = {step.name: step.status for step in verify.check_integrity(tmp_path / "orin").steps}
    assert steps["digests"] == "held: 6 files; 1 engines for other devices than orin left out"
    with pytest.raises(Refused):
        pulled(address(served, "part"), tmp_path / "all")
    (tmp_path / "orin" / small.ORIN).unlink()
    with pytest.raises(Refused, match="is missing"):
        verify.check_integrity(tmp_path / "orin")


def test_what_a_pull_left_that_was_killed_at_its_very_end_goes(tmp_path: Path) -> None:
    folder, out = small.made(tmp_path / "in", 3), tmp_path / "out"
    pulled(str(folder), out)
    (tmp_path / ".out.fetching" / "tree").mkdir(parents=True)
    pulled(str(folder), out)
    assert {path.name for path in tmp_path.iterdir()} == {"in", "out"}
    with pull._stage(out):  # somebody is about it
        pulled(str(folder), out)
        assert (tmp_path / ".out.fetching").exists()


def flip(path: Path, rng: random.Random) -> None:
    raw = bytearray(path.read_bytes())
    raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    path.write_bytes(raw)


def truncate(path: Path, rng: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: -rng.randint(1, 100)])


@pytest.mark.parametrize(
    ("spoil", "count"),
    [
        (flip, 12),
        (truncate, 6),
        *(pytest.param(*each, marks=pytest.mark.sweep) for each in ((flip, 50), (truncate, 20))),
    ],
)
def test_spoilt_blobs_are_refused(
    served: Registry, tmp_path: Path, spoil: Callable[[Path, random.Random], None], count: int
) -> None:
    name, rng = f"spoilt/{spoil.__name__}{count}", random.Random(count)
    folder = small.made(tmp_path / "in", 4000 + count + len(spoil.__name__))
    pushed(folder, served.port, name)
    blobs = [served.blob(hashlib.sha256(raw).hexdigest()) for raw in small.contents(folder).values()]
    for number in range(count):
        blob = blobs[number % len(blobs)]
        kept = blob.read_bytes()
        spoil(blob, rng)
        with pytest.raises(DeployError) as caught:
            pulled(address(served, name), tmp_path / f"out{number}")  # a folder anew: what came well would be kept
        assert isinstance(caught.value, Refused), caught.value
        assert not (tmp_path / f"out{number}").exists()
        blob.write_bytes(kept)
    pulled(address(served, name), tmp_path / "out")
    assert small.contents(tmp_path / "out") == small.contents(folder)


@pytest.mark.parametrize("count", [2, pytest.param(10, marks=pytest.mark.sweep)])
def test_swapped_manifests_are_refused(served: Registry, tmp_path: Path, count: int) -> None:
    """Another bundle's manifest under this one's digest, and another bundle under this one's tag."""
    folders = [small.made(tmp_path / f"in{number}", 5000 + number) for number in range(count + 1)]
    sent = [pushed(folder, served.port, "swap") for folder in folders]
    store = [served.blob(each.digest.removeprefix("sha256:")) for each in sent]
    kept = [blob.read_bytes() for blob in store]
    last = address(served, "swap")
    for number in range(count):
        store[-1].write_bytes(kept[number])
        for where, digest in ((sent[-1].name, None), (last, None), (last, sent[-1].digest)):
            with pytest.raises(Refused):
                pulled(where, tmp_path / "out", digest=digest)
        store[-1].write_bytes(kept[-1])
        pushed(tmp_path / f"in{number}", served.port, "swap")  # the tag itself turns to another bundle
        with pytest.raises(Refused, match="another bundle"):
            pulled(last, tmp_path / "out", digest=sent[-1].digest)
        pushed(tmp_path / f"in{count}", served.port, "swap")
        assert not (tmp_path / "out").exists()
    pulled(last, tmp_path / "out", digest=sent[-1].digest)


_PULL = """
import sys
from pathlib import Path
from tests.transfer import trips as it
print("begins", flush=True)
it.pulled(sys.argv[1], Path(sys.argv[2]))
"""


@pytest.mark.parametrize("count", [2, pytest.param(10, marks=pytest.mark.sweep)])
def test_a_killed_pull_shows_nothing_and_goes_on(served: Registry, proxy: Proxy, tmp_path: Path, count: int) -> None:
    rng, alive = random.Random(count), 0
    folder = small.made(tmp_path / "in", 8000 + count, 3_000_000)
    total = sum(len(raw) for raw in small.contents(folder).values())
    pushed(folder, served.port, f"cut/{count}")
    where = f"oci://127.0.0.1:{proxy.port}/cut/{count}:1"
    for number in range(count):
        out = tmp_path / f"out{number}"
        proxy.reset()
        alive += killed(_PULL, [where, str(out)], proxy, "down", rng.randrange(total))
        came = proxy.down
        if out.exists():  # as a whole or not at all
            assert small.contents(out) == small.contents(folder)
        landed = pulled(where, out)
        assert landed.fetched + landed.here == total - len((folder / "manifest.json").read_bytes())
        assert proxy.down <= total + push.CHUNK, (proxy.down, came, total)
        assert small.contents(out) == small.contents(folder)
        assert not list(tmp_path.glob(".*"))
    assert alive >= count - 1


def test_a_cut_line_is_taken_up_again_within_one_pull(served: Registry, proxy: Proxy, tmp_path: Path) -> None:
    folder = small.made(tmp_path / "in", 9, 900_000)
    pushed(folder, served.port, "line")
    proxy.cut_down = 2_000_000
    with pytest.raises(Unreachable):
        pulled(f"oci://127.0.0.1:{proxy.port}/line:1", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    proxy.reset()
    landed = pulled(f"oci://127.0.0.1:{proxy.port}/line:1", tmp_path / "out")
    assert landed.here + landed.fetched >= 6_300_000
    assert proxy.down < 6_300_000 - 1_900_000 + 50_000
    assert small.contents(tmp_path / "out") == small.contents(folder)


def test_what_an_earlier_try_left_is_not_believed(served: Registry, tmp_path: Path) -> None:
    folder = small.made(tmp_path / "in", 10)
    pushed(folder, served.port, "left")
    stage = tmp_path / ".out.fetching" / manifest_digest(folder)
    (stage / "tree" / "engines").mkdir(parents=True)
    (stage / "parts").mkdir()
    (stage / "tree" / small.ORIN).write_bytes(b"x" * (folder / small.ORIN).stat().st_size)
    (stage / "tree" / "engines" / "plugin.so").write_bytes(b"x")
    (stage / "tree" / "recipe.json").symlink_to("/etc/passwd")
    (stage / "parts" / hashlib.sha256((folder / small.RTX40).read_bytes()).hexdigest()).write_bytes(b"other bytes")
    (tmp_path / ".out.fetching" / "another").mkdir()
    pulled(address(served, "left"), tmp_path / "out")
    assert small.contents(tmp_path / "out") == small.contents(folder)
    assert not list(tmp_path.glob(".*"))


_EVERY_STEP = """
import os, signal, sys
from pathlib import Path
from tests.transfer import trips as it
steps, last = 0, 0
def hook(event, arguments):
    global steps
    if last and event in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link", "os.symlink"):
        steps += 1
        if steps == last:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
for number in range(1, 1000, int(sys.argv[3])):
    child = os.fork()
    if not child:
        last = number
        it.pulled(sys.argv[1], Path(sys.argv[2]) / f"out{number}")
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        break
    print(number)
"""


@pytest.mark.parametrize("apart", [5, pytest.param(1, marks=pytest.mark.sweep)])
def test_a_pull_that_is_killed_at_any_step_shows_all_or_nothing(tmp_path: Path, home: Path, apart: int) -> None:
    """At each step that opens, makes, renames or removes something, one process after the other."""
    folder = small.made(tmp_path / "in", 14)
    command = [sys.executable, "-c", _EVERY_STEP, str(folder), str(home), str(apart)]
    killed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert len(killed) > 30 // apart
    shown = [home / f"out{number}" for number in killed if (home / f"out{number}").exists()]
    assert shown or apart > 1
    for out in shown:
        assert small.contents(out) == small.contents(folder)
    for number in killed:
        pulled(str(folder), home / f"out{number}")
        assert small.contents(home / f"out{number}") == small.contents(folder)


def test_two_at_once_do_not_share_a_folder(served: Registry, tmp_path: Path) -> None:
    pushed(small.made(tmp_path / "in", 12), served.port, "two")
    with pull._stage(tmp_path / "out"), pytest.raises(BadInput, match="another process is fetching"):
        pulled(address(served, "two"), tmp_path / "out")
    shutil.rmtree(tmp_path / ".out.fetching", ignore_errors=True)


def link(stage: Path, victim: Path) -> None:
    stage.symlink_to(victim)


def others(stage: Path, victim: Path) -> None:
    stage.mkdir()
    stage.chmod(0o777)


def file(stage: Path, victim: Path) -> None:
    stage.touch()


@pytest.mark.parametrize("planted", [link, others, file])
def test_a_staging_folder_that_was_planted_is_refused_and_nothing_goes(
    tmp_path: Path, planted: Callable[[Path, Path], None]
) -> None:
    victim = tmp_path / "victim" / "precious"
    victim.mkdir(parents=True)
    planted(tmp_path / ".out.fetching", tmp_path / "victim")
    source = small.made(tmp_path / "in", 9001)
    with pytest.raises(BadInput, match="is not a folder that only you can write"):
        pulled(str(source), tmp_path / "out")
    assert victim.is_dir()


def test_a_staging_folder_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".out.fetching").mkdir()
    if os.geteuid() == 0:
        os.chown(tmp_path / ".out.fetching", 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(BadInput, match="is not a folder that only you can write"):
        pulled(str(small.made(tmp_path / "in", 9002)), tmp_path / "out")


def test_the_whole_is_held_once_more_before_it_is_shown(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, usual = small.made(tmp_path / "in", 1), download.fetch

    def fetch(source: Source, file: File, to: Path, parts: Path) -> int:
        came = usual(source, file, to, parts)
        to.write_bytes(bytes(file.size))
        return came

    monkeypatch.setattr(download, "fetch", fetch)
    with pytest.raises(Refused, match="has other bytes than the manifest says"):
        pulled(str(folder), home / "out")
    assert not (home / "out").exists()


def test_what_lies_near_is_copied_only_if_it_is_what_it_is_called(tmp_path: Path, home: Path) -> None:
    folder, near = (small.made(tmp_path / name, 1) for name in ("in", "near"))
    (near / small.ORIN).write_bytes(bytes((near / small.ORIN).stat().st_size))
    landed = pulled(str(folder), home / "out", reuse_from=(near,))
    assert landed.fetched == (folder / small.ORIN).stat().st_size
    assert small.contents(home / "out") == small.contents(folder)


def test_a_spoilt_bundle_that_is_there_already_is_not_said_to_be_it(tmp_path: Path, home: Path) -> None:
    folder = small.made(tmp_path / "in", 1)
    pulled(str(folder), home / "out")
    (home / "out" / small.ORIN).write_bytes(bytes((folder / small.ORIN).stat().st_size))
    with pytest.raises(Refused, match="has other bytes than the manifest says"):
        pulled(str(folder), home / "out")
