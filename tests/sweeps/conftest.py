from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from deploytool.pipeline.export_options import ExportOptions
from deploytool.results.sweep import Sweep
from deploytool.results.sweep_events import Follow, ignore
from deploytool.sweeps.cluster_options import ClusterOptions
from deploytool.sweeps.run import Request, run
from deploytool.sweeps.table import SweepTable
from tests.conftest import ROOT
from tests.sweeps import fake_child

MODELS = ("shufflenet_g3", "mixnet_s", "mobilenet_v1")


class FakeSweep:
    """A sweep whose cells only sleep, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.out = folder, folder / "out"

    def control(self, **behaviour: Any) -> None:
        """What cells do, by their names; `sleep` is for all of them."""
        (self.folder / fake_child.CONTROL).write_text(json.dumps(behaviour))

    def request(self, *, cluster: ClusterOptions | None = None, **words: Any) -> Request:
        table = SweepTable(**{"models": MODELS, "quick": True, **words})
        options = ExportOptions()
        return Request(
            table=table, options=options, out=self.out, cluster=cluster or ClusterOptions(), child=fake_child.MODULE
        )

    def run(self, *, follow: Follow = ignore, **words: Any) -> Sweep:
        return run(self.request(**words), follow)

    def log(self) -> list[dict[str, Any]]:
        """The cells and shared stages that ran, in the order of their ends."""
        log = self.folder / fake_child.LOG
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    def cells_made(self) -> list[str]:
        """The names of the cells that ran."""
        return [entry["folder"] for entry in self.log() if not entry["folder"].startswith(".")]


@pytest.fixture
def fake(tmp_path: Path) -> FakeSweep:
    return FakeSweep(tmp_path)


class Processes:
    """A scheduler of Dask and its workers, as processes that a test can kill."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._all: list[subprocess.Popen[bytes]] = []
        self.address = ""

    def scheduler(self, *arguments: str, protocol: str = "tcp", port: int = 0) -> subprocess.Popen[bytes]:
        file = self._folder / "scheduler.json"
        file.unlink(missing_ok=True)
        command = ["scheduler", "--host", f"{protocol}://127.0.0.1:{port}", "--no-dashboard", "--no-show"]
        process = self._start([*command, "--scheduler-file", str(file), *arguments])
        self.address = json.loads(wait_for(lambda: file.read_text() if file.is_file() else ""))["address"]
        return process

    def worker(self, *arguments: str, env: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        command = ["worker", self.address, "--nthreads", "1", "--no-nanny", "--no-dashboard"]
        local = ["--local-directory", str(self._folder), "--death-timeout", "60"]
        return self._start([*command, *local, *arguments], env)

    def _start(self, arguments: Sequence[str], env: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        command = ["env", f"PYTHONPATH={ROOT}", *env, sys.executable, "-m", "dask", *arguments]
        with (self._folder / "dask.log").open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self._folder)
        self._all.append(process)
        return process

    def end(self) -> None:
        for process in self._all:
            process.kill()
            process.wait()


@pytest.fixture
def dask(tmp_path: Path) -> Iterator[Processes]:
    processes = Processes(tmp_path)
    yield processes
    processes.end()


def wait_for(value: Callable[[], Any], seconds: float = 60) -> Any:
    """The value, as soon as it is true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := value():
            return found
        time.sleep(0.05)
    raise AssertionError(f"it did not happen in {seconds:g} s")
