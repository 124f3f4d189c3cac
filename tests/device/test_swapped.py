"""The bytes that were hashed are the ones that are used, although the file is replaced afterwards."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import pytest

from deploytool.bundle import sign
from deploytool.bundle.manifest import (
    MANIFEST_FILE,
    SIGNATURE_FILE,
    describe_file,
    engine_recipe,
    manifest_digest_of,
    read_manifest,
)
from deploytool.device import install, verify, worker
from deploytool.device.environment import Environment
from deploytool.device.verify import Integrity, VerifyOptions
from deploytool.device.worker import Request
from deploytool.errors import DeployError, Refused
from deploytool.host import files
from deploytool.transfer import addresses, oci_archive, pull, sources
from deploytool.transfer.auth import Credentials
from tests.device import small
from tests.device.keys import Keys

HERE = Environment("linux", "x86_64")
Swaps = Callable[..., Counter[Path]]


@pytest.fixture
def swaps(monkeypatch: pytest.MonkeyPatch) -> Swaps:
    """Makes every file in some folders another when it has been hashed so many times; counts how often each was."""

    def begin(turn: int, *places: Path) -> Counter[Path]:
        hashed, usual = Counter[Path](), files.verified_blocks

        def held(blocks: BinaryIO, path: object, size: int, sha256: str) -> Iterator[bytes]:
            yield from usual(blocks, path, size, sha256)
            if isinstance(path, Path):
                hashed[path] += 1
                if hashed[path] == turn and (not places or any(path.is_relative_to(place) for place in places)):
                    path.write_bytes(b"something else")

        monkeypatch.setattr(files, "verified_blocks", held)
        return hashed

    return begin


@pytest.fixture
def folder(packed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(packed, tmp_path / "bundle"))


def test_a_trial_uses_graph_golden_cases_and_image_as_they_were_hashed(folder: Path, swaps: Swaps) -> None:
    manifest, way = read_manifest(folder), verify.run_candidates(verify.check_integrity(folder), HERE)[-1]
    hashed = swaps(1)
    trial = worker._try(Request("try", str(folder), manifest, way, "", 0.0)).trial
    assert trial is not None
    assert not trial.check.broken
    assert {path.name for path in hashed} == {"model.onnx", "golden.npz", "case_0.png"}
    for name in ("golden/golden.npz", "golden/case_0.png", "recipe.json"):
        (folder / name).write_bytes(b"something else")
    with pytest.raises(Refused):
        worker._try(Request("try", str(folder), manifest, way, "", 0.0))


@pytest.mark.parametrize("name", ["golden/golden.npz", "golden/case_0.png", "models/tiny/1/model.onnx"])
def test_a_trial_refuses_a_changed_file(folder: Path, name: str) -> None:
    manifest, way = read_manifest(folder), verify.run_candidates(verify.check_integrity(folder), HERE)[-1]
    (folder / name).write_bytes((folder / name).read_bytes() + b"x")
    with pytest.raises(Refused, match=name):
        worker._try(Request("try", str(folder), manifest, way, "", 0.0))


def test_an_engine_recipe_is_parsed_as_it_was_hashed(folder: Path, swaps: Swaps) -> None:
    manifest = read_manifest(folder)
    before, hashed = engine_recipe(folder, manifest), swaps(1)
    assert engine_recipe(folder, manifest) == before
    assert sum(hashed.values()) == 1
    with pytest.raises(Refused, match="other bytes"):
        engine_recipe(folder, manifest)


def test_a_malformed_engine_recipe_is_refused(folder: Path) -> None:
    (folder / "recipe.json").write_text('{"graph": 5}')
    listed = tuple(describe_file(folder, file.path, file.role) for file in read_manifest(folder).files)
    with pytest.raises(Refused, match="is no engine recipe"):
        engine_recipe(folder, replace(read_manifest(folder), files=listed))


def proved(checked: Integrity) -> None:
    """Nothing is run here."""


@pytest.mark.parametrize("turn", [1, 2, 3, 4])
def test_an_install_gives_the_exact_bundle_or_fails(signed: Path, tmp_path: Path, swaps: Swaps, turn: int) -> None:
    source, clean = Path(shutil.copytree(signed, tmp_path / "bundle")), small.contents(signed)
    swaps(turn, source)
    try:
        turned = install.install(source, tmp_path / "root", proved)
    except DeployError:
        assert install.read_pointer(tmp_path / "root") is None
        return
    assert small.contents(install.bundle_path(tmp_path / "root", turned.current)) == clean


@pytest.mark.parametrize("turn", [1, 2])
@pytest.mark.parametrize("near", [False, True])
def test_a_pull_gives_the_exact_bundle_or_fails(
    signed: Path, tmp_path: Path, swaps: Swaps, turn: int, near: bool
) -> None:
    source, other = (Path(shutil.copytree(signed, tmp_path / name)) for name in ("bundle", "near"))
    clean, out = small.contents(signed), tmp_path / "out"
    swaps(turn, source, other)  # who pulls makes the folder it fetches into, and nobody else may write there
    try:
        with sources.open_source(addresses.parse(str(source)), Credentials()) as opened:
            pull.pull(opened, out, None, reuse_from=[other] if near else (), say=lambda _: None)
    except DeployError:
        assert not out.exists()
        return
    assert small.contents(out) == clean


@pytest.mark.parametrize("turn", [1, 2])
def test_an_archive_contains_the_exact_bundle(signed: Path, tmp_path: Path, swaps: Swaps, turn: int) -> None:
    source = Path(shutil.copytree(signed, tmp_path / "bundle"))
    oci_archive.write(source, read_manifest(source), tmp_path / "clean.tar")
    swaps(turn)
    oci_archive.write(source, read_manifest(source), tmp_path / "made.tar")
    assert (tmp_path / "made.tar").read_bytes() == (tmp_path / "clean.tar").read_bytes()


def test_a_file_changed_while_signing_is_refused_by_verify(
    signed: Path, tmp_path: Path, ours: Keys, swaps: Swaps
) -> None:
    source = Path(shutil.copytree(signed, tmp_path / "bundle"))
    (source / SIGNATURE_FILE).unlink()
    swaps(1)
    sign.sign(source, ours[0])
    with pytest.raises(Refused):
        verify.check_integrity(source, VerifyOptions(key=ours[1]))


def test_the_parsed_manifest_is_the_one_that_was_hashed_and_signed(
    signed: Path, tmp_path: Path, ours: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody swaps it after it was read, and back again before it is looked at for the last time."""
    folder = Path(shutil.copytree(signed, tmp_path / "bundle"))
    raw, usual, reads = (folder / MANIFEST_FILE).read_bytes(), files.read, 0
    forged = raw.replace(b'"sequence": 3', b'"sequence": 9')
    assert forged != raw

    def read(path: Path, most: int) -> bytes:
        nonlocal reads
        content = usual(path, most)
        if path.name == MANIFEST_FILE:
            reads += 1
            path.write_bytes(forged if reads == 1 else raw)
        return content

    monkeypatch.setattr(files, "read", read)
    with pytest.raises(Refused):
        verify.check_integrity(folder, VerifyOptions(key=ours[1]))
    reads = 0
    (folder / MANIFEST_FILE).write_bytes(raw)
    monkeypatch.setattr(verify, "manifest_digest", lambda _: manifest_digest_of(raw))
    assert verify.check_integrity(folder, VerifyOptions()).manifest.sequence == 3
