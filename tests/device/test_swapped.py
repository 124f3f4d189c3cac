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
from tests.device.ort_cpu import ort_cpu

HERE = Environment("linux", "x86_64")
Swaps = Callable[..., Counter[Path]]


@pytest.fixture
def replace_files(monkeypatch: pytest.MonkeyPatch) -> Swaps:
    """Replaces every file in some folders once it was hashed `count` times; counts how often each was hashed."""

    def begin(count: int, *places: Path, same_size: bool = False) -> Counter[Path]:
        hashed, original = Counter[Path](), files.verified_blocks

        def replace_when_hashed(blocks: BinaryIO, path: object, size: int, sha256: str) -> Iterator[bytes]:
            yield from original(blocks, path, size, sha256)
            if isinstance(path, Path):
                hashed[path] += 1
                if hashed[path] == count and (not places or any(path.is_relative_to(place) for place in places)):
                    path.write_bytes(bytes(path.stat().st_size) if same_size else b"something else")

        monkeypatch.setattr(files, "verified_blocks", replace_when_hashed)
        return hashed

    return begin


@pytest.fixture
def folder(packed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(packed, tmp_path / "bundle"))


def test_a_trial_uses_graph_golden_cases_and_image_as_they_were_hashed(folder: Path, replace_files: Swaps) -> None:
    manifest, candidate = read_manifest(folder), ort_cpu(folder, HERE)
    hashed = replace_files(1)
    trial = worker._try(Request("try", str(folder), manifest, candidate, "", 0.0)).trial
    assert trial is not None
    assert not trial.check.broken
    assert {path.name for path in hashed} == {"model.onnx", "golden.npz", "case_0.png"}
    for name in ("golden/golden.npz", "golden/case_0.png", "recipe.json"):
        (folder / name).write_bytes(b"something else")
    with pytest.raises(Refused):
        worker._try(Request("try", str(folder), manifest, candidate, "", 0.0))


@pytest.mark.parametrize("name", ["golden/golden.npz", "golden/case_0.png", "models/tiny/1/model.onnx"])
def test_a_trial_refuses_a_changed_file(folder: Path, name: str) -> None:
    manifest, candidate = read_manifest(folder), ort_cpu(folder, HERE)
    (folder / name).write_bytes((folder / name).read_bytes() + b"x")
    with pytest.raises(Refused, match=name):
        worker._try(Request("try", str(folder), manifest, candidate, "", 0.0))


def test_an_engine_recipe_is_parsed_as_it_was_hashed(folder: Path, replace_files: Swaps) -> None:
    manifest = read_manifest(folder)
    before, hashed = engine_recipe(folder, manifest), replace_files(1)
    assert engine_recipe(folder, manifest) == before
    assert sum(hashed.values()) == 1
    with pytest.raises(Refused, match="other bytes"):
        engine_recipe(folder, manifest)


def test_a_malformed_engine_recipe_is_refused(folder: Path) -> None:
    (folder / "recipe.json").write_text('{"graph": 5}')
    listed = tuple(describe_file(folder, file.path, file.role) for file in read_manifest(folder).files)
    with pytest.raises(Refused, match="is not an engine recipe"):
        engine_recipe(folder, replace(read_manifest(folder), files=listed))


def accept(checked: Integrity) -> None:
    """Accepts a bundle without running it."""


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_an_install_gives_the_exact_bundle_or_fails(
    signed: Path, tmp_path: Path, replace_files: Swaps, count: int
) -> None:
    source, clean = Path(shutil.copytree(signed, tmp_path / "bundle")), small.contents(signed)
    replace_files(count, source)
    try:
        pointer = install.install(source, tmp_path / "root", accept)
    except DeployError:
        assert install.read_pointer(tmp_path / "root") is None
        return
    assert small.contents(install.bundle_path(tmp_path / "root", pointer.current)) == clean


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("reuse", [False, True])
def test_a_pull_gives_the_exact_bundle_or_fails(
    signed: Path, tmp_path: Path, replace_files: Swaps, count: int, reuse: bool
) -> None:
    source, reused = (Path(shutil.copytree(signed, tmp_path / name)) for name in ("bundle", "near"))
    clean, out = small.contents(signed), tmp_path / "out"
    replace_files(count, source, reused)  # the folder of the fetch is private to the pull
    try:
        with sources.open_source(addresses.parse(str(source)), Credentials()) as source_reader:
            pull.pull(source_reader, out, None, reuse_from=[reused] if reuse else (), say=lambda _: None)
    except DeployError:
        assert not out.exists()
        return
    assert small.contents(out) == clean


@pytest.mark.parametrize("count", [1, 2])
def test_an_archive_contains_the_exact_bundle(signed: Path, tmp_path: Path, replace_files: Swaps, count: int) -> None:
    source = Path(shutil.copytree(signed, tmp_path / "bundle"))
    oci_archive.write(source, read_manifest(source), tmp_path / "clean.tar")
    replace_files(count)
    oci_archive.write(source, read_manifest(source), tmp_path / "made.tar")
    assert (tmp_path / "made.tar").read_bytes() == (tmp_path / "clean.tar").read_bytes()


def test_a_file_changed_while_signing_is_refused_by_sign_and_verify(
    signed: Path, tmp_path: Path, ours: Keys, replace_files: Swaps
) -> None:
    source = Path(shutil.copytree(signed, tmp_path / "bundle"))
    (source / SIGNATURE_FILE).unlink()
    replace_files(1)
    with pytest.raises(Refused):
        sign.sign(source, ours[0])
    with pytest.raises(Refused):
        verify.check_integrity(source, VerifyOptions(key=ours[1]))


def test_a_file_of_the_same_size_changed_while_signing_is_refused_by_verify(
    signed: Path, tmp_path: Path, ours: Keys, replace_files: Swaps
) -> None:
    source = Path(shutil.copytree(signed, tmp_path / "bundle"))
    (source / SIGNATURE_FILE).unlink()
    replace_files(1, same_size=True)
    sign.sign(source, ours[0])
    with pytest.raises(Refused):
        verify.check_integrity(source, VerifyOptions(key=ours[1]))


def test_the_parsed_manifest_is_the_one_that_was_hashed_and_signed(
    signed: Path, tmp_path: Path, ours: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process replaces the manifest after it was read, and restores it before the last check."""
    folder = Path(shutil.copytree(signed, tmp_path / "bundle"))
    raw, original, reads = (folder / MANIFEST_FILE).read_bytes(), files.read, 0
    forged = raw.replace(b'"sequence": 3', b'"sequence": 9')
    assert forged != raw

    def read(path: Path, most: int) -> bytes:
        nonlocal reads
        content = original(path, most)
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
