"""Tampered bundles fail the check of their signature, and clean bundles pass it."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from deploytool.bundle import sign
from deploytool.bundle.manifest import SIGNATURE_FILE
from tests.device import small
from tests.device.keys import FILE_TAMPERS, SIGNATURE_TAMPERS, Keys, is_refused


@pytest.fixture(scope="module")
def other(packed: Path, tmp_path_factory: pytest.TempPathFactory, ours: Keys) -> Path:
    """Another bundle that the same key signed."""
    folder = small.small(packed, tmp_path_factory.mktemp("other") / "bundle", seed=1)
    sign.sign(folder, ours[0])
    return folder


def test_three_hundred_tampered_bundles_are_refused(
    signed: Path, other: Path, tmp_path: Path, ours: Keys, theirs: Keys
) -> None:
    """Changes bits of signature, payload and files; adds, removes and renames files; uses other signatures."""
    rng, contents, folder = random.Random(7), small.contents(signed), tmp_path / "bundle"
    other_signature = (other / SIGNATURE_FILE).read_bytes()
    passed: Counter[str] = Counter()
    for number in range(280):
        tamper = (*SIGNATURE_TAMPERS, *FILE_TAMPERS)[number % 12]
        tamper(small.restored(contents, folder), rng)
        passed[tamper.__name__] += not is_refused(folder, ours[1])
    for number in range(20):
        small.restored(contents, folder)
        if number % 2:
            (folder / SIGNATURE_FILE).write_bytes(other_signature)
        elif number % 4:
            sign.sign(folder, theirs[0])
        passed["other signature"] += not is_refused(folder, ours[1] if number % 4 else theirs[1])
    assert +passed == Counter()
    assert not is_refused(small.restored(contents, folder), ours[1])


def test_fifty_clean_bundles_are_accepted(packed: Path, tmp_path: Path, ours: Keys) -> None:
    for seed in range(50):
        folder = small.small(packed, tmp_path / str(seed), seed=seed)
        sign.sign(folder, ours[0])
        assert not is_refused(folder, ours[1])
