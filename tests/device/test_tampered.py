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


def refused(folder: Path, asked: VerifyOptions) -> bool:
    try:
        verify.check_integrity(folder, asked)
    except Refused:
        return True
    return False


def sweep(clean: Path, folder: Path, count: int, ours: Keys, theirs: Keys) -> Counter[str]:
    """How many of `count` tampered bundles are let through, by the way they were tampered with.

    Only where the key is the wrong one is a signature asked for: digests and sequence must do without it.
    """
    sequence, rng, kept = read_manifest(clean).sequence, random.Random(5), small.contents(clean)
    sign.sign(small.restored(kept, folder), theirs[0])
    wrong = {**kept, SIGNATURE_FILE: (folder / SIGNATURE_FILE).read_bytes()}
    passed: Counter[str] = Counter()
    for number in range(count):
        place = number % (len(small.TAMPERS) + 1)
        if place == len(small.TAMPERS):
            small.restored(wrong, folder)
            passed["wrong key"] += not refused(folder, VerifyOptions(sequence, key=ours[1]))
            continue
        tamper = small.TAMPERS[place]
        tamper(small.restored(kept, folder), rng)
        passed[tamper.__name__] += not refused(folder, VerifyOptions(sequence))
    return +passed


def test_two_thousand_tampered_bundles_are_refused(clean: Path, tmp_path: Path, ours: Keys, theirs: Keys) -> None:
    assert sweep(clean, tmp_path / "bundle", 2000, ours, theirs) == Counter()


@pytest.mark.sweep
def test_ten_thousand_tampered_bundles_are_refused(clean: Path, tmp_path: Path, ours: Keys, theirs: Keys) -> None:
    assert sweep(clean, tmp_path / "bundle", 10_000, ours, theirs) == Counter()


def test_a_thousand_clean_bundles_are_accepted(clean: Path) -> None:
    asked = VerifyOptions(read_manifest(clean).sequence, digest=manifest_digest(clean))
    assert not any(refused(clean, asked) for _ in range(1000))


def test_any_changed_bit_of_the_manifest_is_refused_by_its_digest(clean: Path, tmp_path: Path) -> None:
    rng, digest = random.Random(6), manifest_digest(clean)
    for _ in range(60):
        small.manifest_bytes(small.restored(small.contents(clean), tmp_path / "bundle"), rng)
        assert refused(tmp_path / "bundle", VerifyOptions(digest=digest))


def test_a_manifest_changed_during_the_check_is_refused(
    clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, check = small.restored(small.contents(clean), tmp_path / "bundle"), check_files

    def slow(place: Path, manifest: Manifest, absent: frozenset[str]) -> None:
        check(place, manifest, absent)
        write_manifest(place, dataclasses.replace(manifest, sequence=9))

    monkeypatch.setattr(verify, "check_files", slow)
    with pytest.raises(Refused, match="changed while it was checked"):
        verify.check_integrity(folder)


def test_a_consistent_forgery_is_detected_by_the_digest_only(clean: Path, tmp_path: Path) -> None:
    """Other bytes under a manifest that names them agree with each other: digests alone cannot tell who wrote them."""
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
