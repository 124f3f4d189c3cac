"""The registry and the sshd that these tests share, on loopback; tests are skipped where they are not installed."""

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
    """The lines of progress."""
    return []


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An empty folder that represents one on a device."""
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.fixture
def proxy(served: Registry) -> Iterator[Proxy]:
    with servers.proxy(served.port) as made:
        yield made
