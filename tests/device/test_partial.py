"""A signed bundle fetched for one target: it passes, and a forged subset file only makes engines unavailable."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as draw

from deploytool import serde
from deploytool.bundle import sign, subset
from deploytool.bundle.manifest import SUBSET_FILE, Manifest, manifest_digest, read_manifest
from deploytool.bundle.subset import Subset
from deploytool.device import install, verify
from deploytool.device.candidates import Tier
from deploytool.device.environment import Environment
from deploytool.device.verify import VerifyOptions
from deploytool.errors import Refused
from deploytool.host import disk, files
from deploytool.transfer import addresses, pull, sources
from deploytool.transfer.auth import Credentials
from tests.device.keys import Keys, keys
from tests.device.small import accept
from tests.transfer import small

ORIN = Environment("linux", "aarch64", "Orin", "8.7", "13.0", {"tensorrt": "10.3.0"})
RTX40 = Environment("linux", "x86_64", "RTX", "8.9", "13.0", {"tensorrt": "10.3.0"})


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return keys(tmp_path_factory.mktemp("keys"), "ours")


@pytest.fixture(scope="module")
def fetched(tmp_path_factory: pytest.TempPathFactory, ours: Keys) -> Path:
    """A signed bundle of which only what an Orin needs was fetched."""
    home = tmp_path_factory.mktemp("part")
    whole = small.make_bundle(home / "whole", 1)
    sign.sign(whole, ours[0])
    with sources.open_source(addresses.Folder(whole), Credentials()) as source:
        signed = verify.signature_checker(ours[1])
        pull.pull(source, home / "orin", subset.parse("orin"), signed=signed, say=lambda line: None)
    return home / "orin"


@pytest.fixture
def copy(fetched: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(fetched, tmp_path / "orin"))


def engines(checked: verify.Integrity, environment: Environment) -> dict[str, str | None]:
    """Why each engine cannot be tried, by its path in the bundle; None if it can."""
    all_candidates = verify.run_candidates(checked, environment)
    return {
        Path(candidate.path).relative_to(checked.folder).as_posix(): candidate.absent
        for candidate in all_candidates
        if candidate.tier == Tier.ENGINE
    }


def test_a_signed_subset_passes(fetched: Path, ours: Keys) -> None:
    checked = verify.check_integrity(fetched, VerifyOptions(key=ours[1]))
    steps = {step.name: step.status for step in checked.steps}
    assert steps["signature"] == f"held: 7 files, by {ours[1]}"  # the manifest, and six of the seven it names
    assert steps["digests"] == "held: 6 files; 1 engines for other devices than orin left out"
    assert engines(checked, ORIN) == {
        small.ORIN: None,
        small.RTX40: "it is for compute capability 8.9, and Orin has 8.7",
    }
    assert engines(checked, RTX40)[small.RTX40] == "it was left out when the bundle was fetched"


def fetch(whole: Path, out: Path, target: str) -> Path:
    with sources.open_source(addresses.Folder(whole), Credentials()) as source:
        pull.pull(source, out, subset.parse(target), say=lambda line: None)
    return out


def installed(root: Path, source: Path) -> tuple[set[str], Subset | None]:
    """The engines that are installed and the subset that is recorded, after a bundle has been installed."""
    pointer = install.install(source, root, accept)
    folder = install.bundle_path(root, pointer.current)
    verify.check_integrity(folder)
    assert not list(root.glob(".staging-*"))
    found = {engine for engine in (small.ORIN, small.RTX40) if (folder / engine).exists()}
    return found, subset.read(folder)


def test_installing_more_of_a_bundle_adds_its_engines(tmp_path: Path) -> None:
    root, whole = tmp_path / "root", small.make_bundle(tmp_path / "whole", 1)
    orin, rtx40 = (fetch(whole, tmp_path / target, target) for target in ("orin", "rtx40"))
    assert installed(root, orin) == ({small.ORIN}, subset.parse("orin"))
    assert installed(root, rtx40) == ({small.ORIN, small.RTX40}, subset.parse("rtx40"))
    assert installed(tmp_path / "other", orin) == ({small.ORIN}, subset.parse("orin"))
    assert installed(tmp_path / "other", whole) == ({small.ORIN, small.RTX40}, None)
    assert installed(tmp_path / "other", orin) == ({small.ORIN, small.RTX40}, None)  # nothing is taken away
    assert small.contents(install.bundle_path(tmp_path / "other", manifest_digest(whole))) == small.contents(whole)


def test_engines_are_added_one_by_one_to_an_intact_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bundle may be in use meanwhile; a file that changes in the source is not taken over."""
    root, whole = tmp_path / "root", small.make_bundle(tmp_path / "whole", 1)
    installed(root, fetch(whole, tmp_path / "orin", "orin"))
    folder, before = install.bundle_path(root, manifest_digest(whole)), small.contents(root)
    steps: list[int] = []

    def check(synced: Path) -> None:
        verify.check_integrity(folder)
        steps.append(len(small.contents(folder)))

    monkeypatch.setattr(files, "sync_folder", check)
    with monkeypatch.context() as patch:
        patch.setattr(disk, "check", lambda *_: (whole / small.RTX40).write_bytes(b"changed"))
        with pytest.raises(Refused, match="has another size"):
            install.install(whole, root, accept)
    assert small.contents(root) == before
    small.make_bundle(whole, 1)
    install.install(whole, root, accept)
    assert steps[0] == len(small.contents(whole)) + 1  # the engine is there, and subset.json still


def test_a_forged_subset_file_only_makes_engines_unavailable(copy: Path, ours: Keys) -> None:
    """subset.json is not signed; a forged one can only make engines unavailable."""
    (copy / small.ORIN).unlink()
    with pytest.raises(Refused, match=r"orin\.plan is missing"):
        verify.check_integrity(copy, VerifyOptions(key=ours[1]))
    (copy / SUBSET_FILE).write_text(serde.text(Subset("rtx50", "12.0")))
    checked = verify.check_integrity(copy, VerifyOptions(key=ours[1]))
    assert engines(checked, ORIN)[small.ORIN] == "it was left out when the bundle was fetched"
    assert verify.target_step(copy, checked.manifest, ORIN).status.startswith(
        "no engine for this machine: it was left out"
    )


def test_an_engine_added_later_must_be_the_signed_one(copy: Path, fetched: Path, ours: Keys) -> None:
    whole = fetched.with_name("whole")
    shutil.copy(whole / small.RTX40, copy / small.RTX40)
    verify.check_integrity(copy, VerifyOptions(key=ours[1]))  # an omitted engine may be added later
    (copy / small.RTX40).write_bytes(bytes((copy / small.RTX40).stat().st_size))
    with pytest.raises(Refused, match=r"rtx40\.plan has other bytes"):
        verify.check_integrity(copy, VerifyOptions(key=ours[1]))


def tamper(folder: Path, whole: Path, rng: random.Random) -> None:
    """Makes one to four changes that need no key, most often of subset.json."""
    capabilities = ["8.7", "8.9", "12.0", "none", "7.5"]
    for _ in range(rng.randint(1, 4)):
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        attack, path = rng.randrange(7), rng.choice(paths)
        if attack in (0, 1):
            (folder / SUBSET_FILE).write_text(serde.text(Subset("orin", rng.choice(capabilities))))
        elif attack == 2:
            path.unlink()
        elif attack == 3 and path.stat().st_size:
            raw = bytearray(path.read_bytes())
            raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
            path.write_bytes(raw)
        elif attack == 4:
            (folder / rng.choice([small.ORIN, small.RTX40])).write_bytes(rng.randbytes(300))
        elif attack == 5:
            shutil.copy(whole / small.RTX40, folder / small.RTX40)
        else:
            (folder / "engines" / "more.plan").write_bytes(b"x")


def test_three_hundred_attacks_only_make_engines_unavailable(fetched: Path, tmp_path: Path, ours: Keys) -> None:
    """An accepted folder has the signed bytes, and lacks no file except engines."""
    whole, rng, outcomes = fetched.with_name("whole"), random.Random(11), Counter[str]()
    signed_contents = small.contents(whole)
    for number in range(300):
        folder = Path(shutil.copytree(fetched, tmp_path / str(number)))
        tamper(folder, whole, rng)
        try:
            checked = verify.check_integrity(folder, VerifyOptions(key=ours[1]))
        except Refused:
            outcomes["refused"] += 1
            continue
        present = small.contents(folder)
        present.pop(SUBSET_FILE, None)
        assert all(signed_contents[path] == raw for path, raw in present.items())
        assert set(signed_contents) - set(present) <= {small.ORIN, small.RTX40}
        for environment in (ORIN, RTX40):
            assert all(path in present for path, absent in engines(checked, environment).items() if absent is None)
        outcomes["held"] += 1
    assert min(outcomes["refused"], outcomes["held"]) >= 40, outcomes


@settings(max_examples=300, deadline=None)
@given(
    listed=draw.lists(draw.lists(draw.sampled_from(["7.5", "8.7", "8.9", "12.0"]), max_size=3), max_size=4),
    capability=draw.sampled_from(["7.5", "8.7", "8.9", "12.0", "none", ""]),
)
def test_only_engines_for_other_capabilities_may_be_missing(
    fetched: Path, listed: list[list[str]], capability: str
) -> None:
    manifest = read_manifest(fetched)
    engine_list = [
        replace(
            manifest.engines[0],
            file=replace(manifest.engines[0].file, path=f"e{number}"),
            capabilities=tuple(capabilities),
        )
        for number, capabilities in enumerate(listed)
    ]
    changed: Manifest = replace(manifest, engines=tuple(engine_list))
    absent = subset.omitted_engines(changed, Subset("t", capability))
    assert absent == {f"e{number}" for number, capabilities in enumerate(listed) if capability not in capabilities}
    assert not absent & {file.path for file in changed.files}
    assert subset.omitted_engines(changed, None) == frozenset()
