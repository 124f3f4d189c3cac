"""The registry that the tests of this folder share, on loopback; skipped where it cannot be installed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.transfer import servers
from tests.transfer.servers import Proxy, Registry, Sshd


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    if not servers.REGISTRY:
        pytest.skip("no docker-registry on this machine: apt-get install docker-registry")
    with servers.registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture(scope="session")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    if not servers.SSHD:
        pytest.skip("no sshd on this machine: apt-get install openssh-server")
    with servers.sshd(tmp_path_factory.mktemp("sshd")) as running:
        yield running


@pytest.fixture
def silent() -> list[str]:
    """What was said, line by line."""
    return []


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An empty folder that stands for a device's."""
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.fixture
def proxy(served: Registry) -> Iterator[Proxy]:
    with servers.proxy(served.port) as made:
        yield made
