"""Tampered bundles are refused, and clean bundles are accepted."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from pathlib import Path

import pytest

from deploytool.bundle import sign
from deploytool.bundle.manifest import (
    SIGNATURE_FILE,
    Manifest,
    check_files,
    describe_file,
    manifest_digest,
    read_manifest,
    write_manifest,
)
from deploytool.device import verify
from deploytool.device.verify import VerifyOptions
from deploytool.errors import Refused
from tests.device import small
from tests.device.keys import Keys


@pytest.fixture(scope="module")
def clean(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.small(packed, tmp_path_factory.mktemp("clean") / "bundle")


def refused(folder: Path, options: VerifyOptions) -> bool:
    try:
        verify.check_integrity(folder, options)
    except Refused:
        return True
    return False


def sweep(clean: Path, folder: Path, count: int, ours: Keys, theirs: Keys) -> Counter[str]:
    """The number of accepted bundles among `count` tampered ones, by the kind of change.

    A signature is required only with the wrong key: digests and sequence must suffice for the other changes.
    """
    sequence, rng, contents = read_manifest(clean).sequence, random.Random(5), small.contents(clean)
    sign.sign(small.restored(contents, folder), theirs[0])
    wrongly_signed = {**contents, SIGNATURE_FILE: (folder / SIGNATURE_FILE).read_bytes()}
    passed: Counter[str] = Counter()
    for number in range(count):
        index = number % (len(small.TAMPERS) + 1)
        if index == len(small.TAMPERS):
            small.restored(wrongly_signed, folder)
            passed["wrong key"] += not refused(folder, VerifyOptions(sequence, key=ours[1]))
            continue
        tamper = small.TAMPERS[index]
        tamper(small.restored(contents, folder), rng)
        passed[tamper.__name__] += not refused(folder, VerifyOptions(sequence))
    return +passed


def test_two_thousand_tampered_bundles_are_refused(clean: Path, tmp_path: Path, ours: Keys, theirs: Keys) -> None:
    assert sweep(clean, tmp_path / "bundle", 2000, ours, theirs) == Counter()


@pytest.mark.sweep
def test_ten_thousand_tampered_bundles_are_refused(clean: Path, tmp_path: Path, ours: Keys, theirs: Keys) -> None:
    assert sweep(clean, tmp_path / "bundle", 10_000, ours, theirs) == Counter()


def test_a_thousand_clean_bundles_are_accepted(clean: Path) -> None:
    options = VerifyOptions(read_manifest(clean).sequence, digest=manifest_digest(clean))
    assert not any(refused(clean, options) for _ in range(1000))


def test_any_changed_bit_of_the_manifest_is_refused_by_its_digest(clean: Path, tmp_path: Path) -> None:
    rng, digest = random.Random(6), manifest_digest(clean)
    for _ in range(60):
        small.manifest_bytes(small.restored(small.contents(clean), tmp_path / "bundle"), rng)
        assert refused(tmp_path / "bundle", VerifyOptions(digest=digest))


def test_a_manifest_changed_during_the_check_is_refused(
    clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, check = small.restored(small.contents(clean), tmp_path / "bundle"), check_files

    def check_and_change(bundle: Path, manifest: Manifest, absent: frozenset[str]) -> None:
        check(bundle, manifest, absent)
        write_manifest(bundle, dataclasses.replace(manifest, sequence=9))

    monkeypatch.setattr(verify, "check_files", check_and_change)
    with pytest.raises(Refused, match="changed while it was checked"):
        verify.check_integrity(folder)


def test_a_consistent_forgery_is_detected_by_the_digest_only(clean: Path, tmp_path: Path) -> None:
    """Changed files under a manifest with their digests are consistent: digests do not tell who wrote them."""
    folder = small.restored(small.contents(clean), tmp_path / "bundle")
    manifest = read_manifest(folder)
    graph = manifest.graphs[0].path
    (folder / graph).write_bytes(b"another graph")
    files = tuple(describe_file(folder, file.path, file.role) for file in manifest.files)
    write_manifest(folder, dataclasses.replace(manifest, files=files))
    assert not refused(folder, VerifyOptions())
    assert refused(folder, VerifyOptions(digest=manifest_digest(clean)))


@pytest.mark.parametrize("tamper", small.TAMPERS, ids=lambda tamper: tamper.__name__)
def test_a_refusal_is_one_line_with_a_remedy(clean: Path, tmp_path: Path, tamper: small.Tamper) -> None:
    tamper(small.restored(small.contents(clean), tmp_path / "bundle"), random.Random(1))
    with pytest.raises(Refused) as caught:
        verify.check_integrity(tmp_path / "bundle", VerifyOptions(3))
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "bundle") in str(caught.value)
    assert caught.value.remedy
