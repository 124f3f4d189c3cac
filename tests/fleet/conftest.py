"""Devices with a fake deploytool, which the tests of a file share: each begins with empty roots and whole lines."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence

import pytest

from tests.fleet import rigs
from tests.fleet.rigs import Rig
from tests.transfer import servers


@pytest.fixture(scope="session")
def loopback(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sequence[Rig]]:
    if not servers.SSHD:
        pytest.skip("no sshd on this machine: apt-get install openssh-server")
    with rigs.rigs(tmp_path_factory.mktemp("fleet"), 3, "fake_device.py") as running:
        yield running


@pytest.fixture
def three(loopback: Sequence[Rig]) -> Sequence[Rig]:
    for rig in loopback:
        shutil.rmtree(rig.root)
        rig.root.mkdir()
        rig.control()
        rig.proxy.reset()
    return loopback
