"""Pushes bundles to a registry and pulls them, directly, through a proxy, or in a process that is killed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

from deploytool.bundle import subset
from deploytool.bundle.manifest import read_manifest
from deploytool.transfer import addresses, pull, push, sources
from deploytool.transfer.auth import Credentials
from deploytool.transfer.pull import PullResult
from deploytool.transfer.push import PushResult
from tests.conftest import ROOT
from tests.transfer.servers import Proxy, Registry

CHUNK = 256 << 10


def ignore(line: str) -> None:
    """Discards a line of progress."""


def push_bundle(folder: Path, port: int, name: str, chunk: int = push.CHUNK) -> PushResult:
    registry = addresses.parse(f"oci://127.0.0.1:{port}/{name}:1")
    assert isinstance(registry, addresses.Registry)
    return push.push(folder, read_manifest(folder), registry, Credentials(), chunk=chunk, say=ignore)


def pull_bundle(
    address: str, out: Path, target: str | None = None, digest: str | None = None, reuse_from: tuple[Path, ...] = ()
) -> PullResult:
    with sources.open_source(addresses.parse(address), Credentials()) as source:
        return pull.pull(source, out, subset.parse(target), digest=digest, reuse_from=reuse_from, say=ignore)


def address(served: Registry, name: str) -> str:
    return f"oci://127.0.0.1:{served.port}/{name}:1"


def kill_after(program: str, arguments: list[str], proxy: Proxy, way: str, after: int) -> bool:
    """Starts a program and kills it after `after` bytes passed the proxy; returns whether it was still running."""
    command = [sys.executable, "-c", program, *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as running:
        while getattr(proxy, way) < after and running.poll() is None:
            time.sleep(0.0005)
        alive = running.poll() is None
        running.send_signal(signal.SIGKILL)
    return alive


def wait_until_idle(proxy: Proxy) -> None:
    """Waits until no more bytes pass the proxy, such as those in socket buffers."""
    before = -1
    while before != (before := proxy.up):
        time.sleep(0.4)
