"""A bundle to a real registry and back: whole, in part, spoilt on the way, cut and resumed."""

from __future__ import annotations

import hashlib
import json
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploytool import bundle, only
from deploytool.device import verify
from deploytool.errors import BadInput, DeployError, Refused, Unreachable
from deploytool.shipping import landing, oci, places, registry, sources
from deploytool.shipping.landing import Landed
from deploytool.shipping.registry import Pushed
from tests.conftest import ROOT
from tests.shipping import servers, small
from tests.shipping.servers import Proxy, Registry

CHUNK = 256 << 10


def hush(line: str) -> None:
    """Nobody listens."""


def pushed(folder: Path, port: int, name: str, chunk: int = registry.CHUNK) -> Pushed:
    place = places.parse(f"oci://127.0.0.1:{port}/{name}:1")
    assert isinstance(place, places.Registry)
    return registry.push(folder, bundle.read(folder), place, {}, chunk=chunk, say=hush)


def pulled(
    address: str, out: Path, target: str | None = None, seal: str | None = None, near: tuple[Path, ...] = ()
) -> Landed:
    with sources.opened(places.parse(address), {}) as source:
        return landing.land(source, out, only.wanted(target), seal=seal, near=near, say=hush)


def address(served: Registry, name: str) -> str:
    return f"oci://127.0.0.1:{served.port}/{name}:1"


@pytest.mark.parametrize("count", [4, pytest.param(50, marks=pytest.mark.sweep)])
def test_round_trips(served: Registry, tmp_path: Path, count: int) -> None:
    for number in range(count):
        folder = small.made(tmp_path / f"in{number}", number + 1000 * count)
        sent = pushed(folder, served.port, f"trip/{count}/m{number}")
        for way, where in (("tag", address(served, f"trip/{count}/m{number}")), ("digest", sent.name)):
            landed = pulled(where, tmp_path / f"out{number}{way}")
            assert small.contents(Path(landed.folder)) == small.contents(folder)
            assert landed.seal == sent.seal == bundle.seal(folder)
        assert not list(tmp_path.glob(".*"))


def test_it_is_a_model_pack(served: Registry, tmp_path: Path) -> None:
    folder = small.made(tmp_path / "in", 1)
    (folder / "model.sig").write_text("signed")
    made = oci.artifact(folder, bundle.read(folder))
    whole = json.loads(made.manifest)
    assert whole["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    assert whole["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    assert whole["config"]["mediaType"] == "application/vnd.cncf.model.config.v1+json"
    config = json.loads(made.config)
    assert config["modelfs"] == {"type": "layers", "diffIds": [layer["digest"] for layer in whole["layers"]]}
    there = {layer["annotations"]["org.cncf.model.filepath"]: layer for layer in whole["layers"]}
    assert set(there) == set(small.contents(folder))
    for path, raw in small.contents(folder).items():
        assert there[path]["digest"] == f"sha256:{hashlib.sha256(raw).hexdigest()}"
        assert there[path]["size"] == len(raw)
        assert re.fullmatch(
            r"application/vnd\.cncf\.model\.(weight|weight\.config|dataset)\.v1\.raw", there[path]["mediaType"]
        )
    assert there[small.ORIN]["mediaType"] == "application/vnd.cncf.model.weight.v1.raw"
    assert oci.artifact(folder, bundle.read(folder)) == made
    pushed(folder, served.port, "pack")
    assert (Path(pulled(address(served, "pack"), tmp_path / "out").folder) / "model.sig").read_text() == "signed"


def test_a_device_pulls_only_what_its_target_needs(served: Registry, tmp_path: Path) -> None:
    folder = small.made(tmp_path / "in", 2)
    pushed(folder, served.port, "part")
    served.blob(hashlib.sha256((folder / small.RTX40).read_bytes()).hexdigest()).unlink()  # nobody asks for it
    landed = pulled(address(served, "part"), tmp_path / "orin", "orin")
    assert set(small.contents(folder)) - set(small.contents(tmp_path / "orin")) == {small.RTX40}
    assert (landed.left_out, landed.files) == (1, 6)
    steps = {step.name: step.status for step in verify.papers(tmp_path / "orin").steps}
    assert steps["digests"] == "held: 6 files; 1 engines for other devices than orin left out"
    with pytest.raises(Refused):
        pulled(address(served, "part"), tmp_path / "all")
    (tmp_path / "orin" / small.ORIN).unlink()
    with pytest.raises(Refused, match="is missing"):
        verify.papers(tmp_path / "orin")


def test_what_is_there_is_neither_sent_nor_fetched_again(served: Registry, tmp_path: Path) -> None:
    one, two = small.made(tmp_path / "one", 3, 50_000), small.made(tmp_path / "two", 3, 50_000, sequence=2)
    first, again, second = (pushed(each, served.port, "again") for each in (one, one, two))
    assert first.sent > 350_000
    assert again.sent == 0
    assert second.sent < 10_000  # its manifest
    out = tmp_path / "out"
    assert pulled(address(served, "again"), out).here == 0
    assert pulled(address(served, "again"), out).fetched == 0
    assert pulled(address(served, "again"), tmp_path / "more", near=(out,)).fetched == 0
    with pytest.raises(BadInput, match="is there already"):
        pulled(first.name, out)
    assert pulled(first.name, tmp_path / "old", near=(out,)).fetched == 0
    assert small.contents(tmp_path / "old") == small.contents(one)


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
        for where, seal in ((sent[-1].name, None), (last, None), (last, sent[-1].seal)):
            with pytest.raises(Refused):
                pulled(where, tmp_path / "out", seal=seal)
        store[-1].write_bytes(kept[-1])
        pushed(tmp_path / f"in{number}", served.port, "swap")  # the tag itself turns to another bundle
        with pytest.raises(Refused, match="is another bundle"):
            pulled(last, tmp_path / "out", seal=sent[-1].seal)
        pushed(tmp_path / f"in{count}", served.port, "swap")
        assert not (tmp_path / "out").exists()
    pulled(last, tmp_path / "out", seal=sent[-1].seal)


def test_layers_and_manifest_must_agree(served: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, make = small.made(tmp_path / "in", 6), oci.artifact

    def fewer(place: Path, manifest: bundle.Manifest) -> oci.Artifact:
        made = make(place, manifest)
        whole = json.loads(made.manifest)
        whole["layers"].pop()
        return oci.Artifact(small.text(whole), made.config, made.layers)

    monkeypatch.setattr(oci, "artifact", fewer)
    pushed(folder, served.port, "fewer")
    with pytest.raises(Refused, match="do not agree about"):
        pulled(address(served, "fewer"), tmp_path / "out")


@pytest.fixture
def proxy(served: Registry) -> Iterator[Proxy]:
    with servers.proxy(served.port) as made:
        yield made


_PUSH = """
import sys
from pathlib import Path
from tests.shipping import test_registry as it
print("begins", flush=True)
it.pushed(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], it.CHUNK)
"""
_PULL = """
import sys
from pathlib import Path
from tests.shipping import test_registry as it
print("begins", flush=True)
it.pulled(sys.argv[1], Path(sys.argv[2]))
"""


def killed(program: str, arguments: list[str], proxy: Proxy, way: str, after: int) -> bool:
    """Starts a program and kills it, -9, when so many bytes went by; whether it was still alive."""
    command = [sys.executable, "-c", program, *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as running:
        while getattr(proxy, way) < after and running.poll() is None:
            time.sleep(0.0005)
        alive = running.poll() is None
        running.send_signal(signal.SIGKILL)
    return alive


def quiet(proxy: Proxy) -> None:
    """Waits until nothing passes any more: a chunk in hand is carried to its end."""
    before = -1
    while before != (before := proxy.up):
        time.sleep(0.4)


@pytest.mark.parametrize("count", [1, pytest.param(10, marks=pytest.mark.sweep)])
def test_a_killed_push_shows_nothing_and_goes_on(served: Registry, proxy: Proxy, tmp_path: Path, count: int) -> None:
    rng, alive = random.Random(count), 0
    for number in range(count):
        folder = small.made(tmp_path / f"in{number}", 7000 + number + 100 * count, 600_000)
        total = sum(len(raw) for raw in small.contents(folder).values())
        name = f"killed/{count}/m{number}"
        proxy.reset()
        alive += killed(_PUSH, [str(folder), str(proxy.port), name], proxy, "up", rng.randrange(total))
        quiet(proxy)
        if f"m{number}" not in served.repositories():
            with pytest.raises(BadInput, match="there is no"):
                pulled(address(served, name), tmp_path / "out")
        sent = pushed(folder, proxy.port, name, CHUNK)
        assert proxy.up <= total + CHUNK + 40_000, (proxy.up, total)  # headers, and a chunk at most
        pulled(sent.name, tmp_path / f"out{number}")
        assert small.contents(tmp_path / f"out{number}") == small.contents(folder)
        assert not list(tmp_path.glob(".*"))
    assert alive >= count - 1


_CUTS = [900_000, *(pytest.param(cut, marks=pytest.mark.sweep) for cut in (150_000, 2_500_000))]


@pytest.mark.parametrize("cut", _CUTS)
def test_a_push_over_a_line_that_is_cut_ends_and_a_second_completes_it(
    served: Registry, proxy: Proxy, tmp_path: Path, cut: int
) -> None:
    folder = small.made(tmp_path / "in", cut, 600_000)
    proxy.cut_up = cut
    with pytest.raises(Unreachable):
        pushed(folder, proxy.port, f"line/{cut}", CHUNK)
    with pytest.raises(BadInput, match="there is no"):
        pulled(address(served, f"line/{cut}"), tmp_path / "out")
    proxy.reset()
    pushed(folder, proxy.port, f"line/{cut}", CHUNK)
    total = sum(len(raw) for raw in small.contents(folder).values())
    assert proxy.up <= total - cut + 600_000 + CHUNK + 40_000  # this registry forgets an upload that breaks off
    pulled(address(served, f"line/{cut}"), tmp_path / "out")
    assert small.contents(tmp_path / "out") == small.contents(folder)


def test_a_bundle_in_a_folder_that_nobody_may_write_to_is_sent(
    served: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = small.made(tmp_path / "in", 13, 600_000)
    monkeypatch.setattr("deploytool.files.publish", lambda path, raw: (_ for _ in ()).throw(PermissionError()))
    pushed(folder, served.port, "readonly", CHUNK)
    monkeypatch.undo()
    pulled(address(served, "readonly"), tmp_path / "out")
    assert small.contents(tmp_path / "out") == small.contents(folder)


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
        assert proxy.down <= total + registry.CHUNK, (proxy.down, came, total)
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
    stage = tmp_path / ".out.fetching" / bundle.seal(folder)
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


def test_a_name_that_is_not_there_and_a_server_that_is_not(served: Registry, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="there is no oci://"):
        pulled(address(served, "nothing"), tmp_path / "out")
    with pytest.raises(Unreachable, match="does not answer"):
        pulled(f"oci://127.0.0.1:{servers.free_port()}/a:1", tmp_path / "out")
    with pytest.raises(BadInput, match="is a digest"):
        registry.push(
            small.made(tmp_path / "in", 11),
            bundle.read(tmp_path / "in"),
            places.Registry("http://127.0.0.1:1", "a", "1", "sha256:" + "0" * 64),
            {},
            say=hush,
        )
    assert {path.name for path in tmp_path.iterdir()} == {"in"}


_EVERY_STEP = """
import os, signal, sys
from pathlib import Path
from tests.shipping import test_registry as it
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
    with landing._stage(tmp_path / "out"), pytest.raises(BadInput, match="somebody else is fetching"):
        pulled(address(served, "two"), tmp_path / "out")
    shutil.rmtree(tmp_path / ".out.fetching", ignore_errors=True)
