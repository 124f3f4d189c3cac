"""Pulls from a registry: whole bundles, parts for a target, corrupt blobs, and resumed downloads."""

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

from deploytool.bundle.manifest import MAX_MANIFEST_BYTES, File, manifest_digest
from deploytool.device import verify
from deploytool.errors import BadInput, DeployError, Refused, Unreachable
from deploytool.transfer import addresses, download, pull, push, sources
from deploytool.transfer.auth import Credentials
from deploytool.transfer.sources import Source
from tests.conftest import ROOT
from tests.transfer import small
from tests.transfer.servers import Proxy, Registry
from tests.transfer.trips import address, kill_after, pull_bundle, push_bundle


def test_a_pull_for_a_target_omits_other_engines(served: Registry, tmp_path: Path) -> None:
    folder = small.make_bundle(tmp_path / "in", 2)
    push_bundle(folder, served.port, "part")
    served.blob(hashlib.sha256((folder / small.RTX40).read_bytes()).hexdigest()).unlink()  # not needed for the target
    result = pull_bundle(address(served, "part"), tmp_path / "orin", "orin")
    assert set(small.contents(folder)) - set(small.contents(tmp_path / "orin")) == {small.RTX40}
    assert (result.left_out, result.files) == (1, 6)
    steps = {step.name: step.status for step in verify.check_integrity(tmp_path / "orin").steps}
    assert steps["digests"] == "held: 6 files; 1 engines for other devices than orin left out"
    with pytest.raises(Refused):
        pull_bundle(address(served, "part"), tmp_path / "all")
    (tmp_path / "orin" / small.ORIN).unlink()
    with pytest.raises(Refused, match="is missing"):
        verify.check_integrity(tmp_path / "orin")


def test_the_staging_folder_of_a_pull_that_was_killed_at_its_end_is_removed(tmp_path: Path) -> None:
    folder, out = small.make_bundle(tmp_path / "in", 3), tmp_path / "out"
    pull_bundle(str(folder), out)
    (tmp_path / ".out.fetching" / "tree").mkdir(parents=True)
    pull_bundle(str(folder), out)
    assert {path.name for path in tmp_path.iterdir()} == {"in", "out"}
    with pull._stage(out):  # another process is fetching it
        pull_bundle(str(folder), out)
        assert (tmp_path / ".out.fetching").exists()


def flip(path: Path, rng: random.Random) -> None:
    raw = bytearray(path.read_bytes())
    raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    path.write_bytes(raw)


def truncate(path: Path, rng: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: -rng.randint(1, 100)])


@pytest.mark.parametrize(
    ("corrupt", "count"),
    [
        (flip, 12),
        (truncate, 6),
        *(pytest.param(*case, marks=pytest.mark.sweep) for case in ((flip, 50), (truncate, 20))),
    ],
)
def test_corrupt_blobs_are_refused(
    served: Registry, tmp_path: Path, corrupt: Callable[[Path, random.Random], None], count: int
) -> None:
    name, rng = f"corrupt/{corrupt.__name__}{count}", random.Random(count)
    folder = small.make_bundle(tmp_path / "in", 4000 + count + len(corrupt.__name__))
    push_bundle(folder, served.port, name)
    blobs = [served.blob(hashlib.sha256(raw).hexdigest()) for raw in small.contents(folder).values()]
    for number in range(count):
        blob = blobs[number % len(blobs)]
        original = blob.read_bytes()
        corrupt(blob, rng)
        with pytest.raises(DeployError) as caught:
            pull_bundle(
                address(served, name), tmp_path / f"out{number}"
            )  # a new folder: correct files would be kept in an old one
        assert isinstance(caught.value, Refused), caught.value
        assert not (tmp_path / f"out{number}").exists()
        blob.write_bytes(original)
    pull_bundle(address(served, name), tmp_path / "out")
    assert small.contents(tmp_path / "out") == small.contents(folder)


@pytest.mark.parametrize("count", [2, pytest.param(10, marks=pytest.mark.sweep)])
def test_swapped_manifests_are_refused(served: Registry, tmp_path: Path, count: int) -> None:
    """Another manifest under the digest of the bundle, and another bundle under its tag."""
    folders = [small.make_bundle(tmp_path / f"in{number}", 5000 + number) for number in range(count + 1)]
    sent = [push_bundle(folder, served.port, "swap") for folder in folders]
    blobs = [served.blob(result.digest.removeprefix("sha256:")) for result in sent]
    original = [blob.read_bytes() for blob in blobs]
    last = address(served, "swap")
    for number in range(count):
        blobs[-1].write_bytes(original[number])
        for source_address, digest in ((sent[-1].name, None), (last, None), (last, sent[-1].digest)):
            with pytest.raises(Refused):
                pull_bundle(source_address, tmp_path / "out", digest=digest)
        blobs[-1].write_bytes(original[-1])
        push_bundle(tmp_path / f"in{number}", served.port, "swap")  # moves the tag to another bundle
        with pytest.raises(Refused, match="another bundle"):
            pull_bundle(last, tmp_path / "out", digest=sent[-1].digest)
        push_bundle(tmp_path / f"in{count}", served.port, "swap")
        assert not (tmp_path / "out").exists()
    pull_bundle(last, tmp_path / "out", digest=sent[-1].digest)


_PULL = """
import sys
from pathlib import Path
from tests.transfer import trips as it
it.pull_bundle(sys.argv[1], Path(sys.argv[2]))
"""


@pytest.mark.parametrize("count", [2, pytest.param(10, marks=pytest.mark.sweep)])
def test_a_killed_pull_is_not_visible_and_resumes(served: Registry, proxy: Proxy, tmp_path: Path, count: int) -> None:
    rng, alive = random.Random(count), 0
    folder = small.make_bundle(tmp_path / "in", 8000 + count, 3_000_000)
    total = sum(len(raw) for raw in small.contents(folder).values())
    push_bundle(folder, served.port, f"cut/{count}")
    source_address = f"oci://127.0.0.1:{proxy.port}/cut/{count}:1"
    for number in range(count):
        out = tmp_path / f"out{number}"
        proxy.reset()
        alive += kill_after(_PULL, [source_address, str(out)], proxy, "down", rng.randrange(total))
        received = proxy.down
        if out.exists():  # complete or absent
            assert small.contents(out) == small.contents(folder)
        result = pull_bundle(source_address, out)
        assert result.fetched + result.here == total - len((folder / "manifest.json").read_bytes())
        assert proxy.down <= total + push.CHUNK, (proxy.down, received, total)
        assert small.contents(out) == small.contents(folder)
        assert not list(tmp_path.glob(".*"))
    assert alive >= count - 1


def test_a_pull_resumes_after_its_connection_was_cut(served: Registry, proxy: Proxy, tmp_path: Path) -> None:
    folder = small.make_bundle(tmp_path / "in", 9, 900_000)
    push_bundle(folder, served.port, "line")
    proxy.cut_down = 2_000_000
    with pytest.raises(Unreachable):
        pull_bundle(f"oci://127.0.0.1:{proxy.port}/line:1", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    proxy.reset()
    result = pull_bundle(f"oci://127.0.0.1:{proxy.port}/line:1", tmp_path / "out")
    assert result.here + result.fetched >= 6_300_000
    assert proxy.down < 6_300_000 - 1_900_000 + 50_000
    assert small.contents(tmp_path / "out") == small.contents(folder)


def test_files_of_an_earlier_pull_are_verified(served: Registry, tmp_path: Path) -> None:
    folder = small.make_bundle(tmp_path / "in", 10)
    push_bundle(folder, served.port, "left")
    stage = tmp_path / ".out.fetching" / manifest_digest(folder)
    (stage / "tree" / "engines").mkdir(parents=True)
    (stage / "parts").mkdir()
    (stage / "tree" / small.ORIN).write_bytes(b"x" * (folder / small.ORIN).stat().st_size)
    (stage / "tree" / "engines" / "plugin.so").write_bytes(b"x")
    (stage / "tree" / "recipe.json").symlink_to("/etc/passwd")
    (stage / "parts" / hashlib.sha256((folder / small.RTX40).read_bytes()).hexdigest()).write_bytes(b"other bytes")
    (tmp_path / ".out.fetching" / "another").mkdir()
    pull_bundle(address(served, "left"), tmp_path / "out")
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
        it.pull_bundle(sys.argv[1], Path(sys.argv[2]) / f"out{number}")
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        break
    print(number)
"""


@pytest.mark.parametrize("stride", [5, pytest.param(1, marks=pytest.mark.sweep)])
def test_a_pull_that_is_killed_at_any_step_leaves_all_or_nothing(tmp_path: Path, home: Path, stride: int) -> None:
    """Kills the process at each operation that opens, makes, renames or removes a file or folder."""
    folder = small.make_bundle(tmp_path / "in", 14)
    command = [sys.executable, "-c", _EVERY_STEP, str(folder), str(home), str(stride)]
    killed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert len(killed) > 30 // stride
    shown = [home / f"out{number}" for number in killed if (home / f"out{number}").exists()]
    assert shown or stride > 1
    for out in shown:
        assert small.contents(out) == small.contents(folder)
    for number in killed:
        pull_bundle(str(folder), home / f"out{number}")
        assert small.contents(home / f"out{number}") == small.contents(folder)


def test_two_pulls_at_once_do_not_share_a_folder(served: Registry, tmp_path: Path) -> None:
    push_bundle(small.make_bundle(tmp_path / "in", 12), served.port, "two")
    with pull._stage(tmp_path / "out"), pytest.raises(BadInput, match="another process is fetching"):
        pull_bundle(address(served, "two"), tmp_path / "out")
    shutil.rmtree(tmp_path / ".out.fetching", ignore_errors=True)


def make_link(stage: Path, victim: Path) -> None:
    stage.symlink_to(victim)


def make_writable_by_others(stage: Path, victim: Path) -> None:
    stage.mkdir()
    stage.chmod(0o777)


def file(stage: Path, victim: Path) -> None:
    stage.touch()


@pytest.mark.parametrize("plant", [make_link, make_writable_by_others, file])
def test_a_planted_staging_folder_is_refused_and_nothing_is_removed(
    tmp_path: Path, plant: Callable[[Path, Path], None]
) -> None:
    victim = tmp_path / "victim" / "precious"
    victim.mkdir(parents=True)
    plant(tmp_path / ".out.fetching", tmp_path / "victim")
    source = small.make_bundle(tmp_path / "in", 9001)
    with pytest.raises(BadInput, match="is not a folder that only you can write"):
        pull_bundle(str(source), tmp_path / "out")
    assert victim.is_dir()


def test_a_staging_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".out.fetching").mkdir()
    if os.geteuid() == 0:
        os.chown(tmp_path / ".out.fetching", 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(BadInput, match="is not a folder that only you can write"):
        pull_bundle(str(small.make_bundle(tmp_path / "in", 9002)), tmp_path / "out")


def test_the_bundle_is_verified_again_before_it_is_renamed_into_place(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, fetch_file = small.make_bundle(tmp_path / "in", 1), download.fetch

    def fetch(source: Source, file: File, to: Path, parts: Path) -> int:
        received = fetch_file(source, file, to, parts)
        to.write_bytes(bytes(file.size))
        return received

    monkeypatch.setattr(download, "fetch", fetch)
    with pytest.raises(Refused, match="has other bytes than the manifest says"):
        pull_bundle(str(folder), home / "out")
    assert not (home / "out").exists()


def test_a_manifest_in_a_folder_is_not_longer_than_any_other(tmp_path: Path) -> None:
    with (small.make_bundle(tmp_path / "in", 1) / "manifest.json").open("a") as opened:
        opened.write(" " * MAX_MANIFEST_BYTES)  # which JSON allows
    with sources.open_source(addresses.Folder(tmp_path / "in"), Credentials()) as source, pytest.raises(Refused):
        source.beside()


def test_a_local_file_is_reused_only_if_its_digest_is_right(tmp_path: Path, home: Path) -> None:
    folder, local = (small.make_bundle(tmp_path / name, 1) for name in ("in", "local"))
    (local / small.ORIN).write_bytes(bytes((local / small.ORIN).stat().st_size))
    result = pull_bundle(str(folder), home / "out", reuse_from=(local,))
    assert result.fetched == (folder / small.ORIN).stat().st_size
    assert small.contents(home / "out") == small.contents(folder)


def test_a_corrupt_existing_bundle_is_refused(tmp_path: Path, home: Path) -> None:
    folder = small.make_bundle(tmp_path / "in", 1)
    pull_bundle(str(folder), home / "out")
    (home / "out" / small.ORIN).write_bytes(bytes((folder / small.ORIN).stat().st_size))
    with pytest.raises(Refused, match="has other bytes than the manifest says"):
        pull_bundle(str(folder), home / "out")
