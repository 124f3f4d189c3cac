"""Fixtures: two key pairs, and a bundle signed with the first."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from deploytool.bundle import sign
from deploytool.bundle.manifest import all_files, read_manifest
from tests.device import small
from tests.device.keys import Keys, keys


@pytest.fixture(scope="session")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return keys(tmp_path_factory.mktemp("keys"), "ours")


@pytest.fixture(scope="session")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return keys(tmp_path_factory.mktemp("keys"), "theirs")


@pytest.fixture(scope="session")
def signed(packed: Path, tmp_path_factory: pytest.TempPathFactory, ours: Keys) -> Path:
    folder = small.small(packed, tmp_path_factory.mktemp("signed") / "bundle")
    assert sign.sign(folder, ours[0]) == len(all_files(read_manifest(folder))) + 1
    return folder


@pytest.fixture
def copy(signed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(signed, tmp_path / "bundle"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"
