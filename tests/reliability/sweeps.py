"""Campaigns of `deploytool sweep`: kills at random moments, thousands of cells, and digests against single exports.

The first two use cells that only sleep. `python -m tests.reliability.sweeps kills --kills 50`,
`… many --cells 10000`, `… digests --models 12` (hours), `… scaling --rounds 3`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests import engines
from tests.conftest import ROOT

ALIKE = ("shufflenet_g1", "shufflenet_g2", "shufflenet_g3", "shufflenet_g4", "mobilenet_v1", "squeezenet1_0")
MODELS = ("shufflenet_g3", "mixnet_s", "mobilenet_v1", "squeezenet_1_0", "shufflenet_g1", "mixnet_m")
CLIENT = """
import sys, json, time
from pathlib import Path
from deploytool.sweeps.cluster_options import ClusterOptions
from deploytool.sweeps.run import Request, run
from deploytool.sweeps.table import SweepTable
from deploytool.pipeline.export_options import ExportOptions
from deploytool.errors import DeployError
from tests.reliability.sweeps import Watcher
folder, address, words = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
table = SweepTable(quick=True, **words)
cluster = ClusterOptions(scheduler=address, wait_s=600)
request = Request(table=table, options=ExportOptions(), out=folder / "out", cluster=cluster,
                  child="tests.sweeps.fake_child")
try:
    made = run(request, Watcher(folder, address).event)
except DeployError as error:
    sys.exit(f"{error}")
sys.exit(0 if {str(result.state) for result in made.cells} == {"passed"} else 3)
"""
IN_PROCESS = """
from deploytool.sweeps import worker
from tests.sweeps import fake_child
worker._start = lambda job, task, folder: fake_child.make(task)
"""
EVERY = 1000  # cells between two measurements of memory


class Watcher:
    """Writes the memory of this process and of the scheduler after every thousand cells."""

    def __init__(self, folder: Path, address: str) -> None:
        self._file, self._scheduler, self._ended = folder / "memory.jsonl", folder / "scheduler.pid", 0
        self._started = time.monotonic()

    def event(self, event: object) -> None:
        if type(event).__name__ == "CellEnded":
            self._ended += 1
            if self._ended % EVERY == 0:
                pids = {"client": os.getpid(), "scheduler": int(self._scheduler.read_text())}
                row = {name: resident_mb(pid) for name, pid in pids.items()}
                with self._file.open("a") as file:
                    line = {"cells": self._ended, "seconds": round(time.monotonic() - self._started), **row}
                    file.write(json.dumps(line) + "\n")


def resident_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGESIZE") / 1e6, 1)


class Cluster:
    """A scheduler at a fixed port, with workers; each can be killed and started again."""

    def __init__(self, folder: Path, workers: int, preload: str = "") -> None:
        self.folder, self._preload = folder, preload
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{self.port}"
        self.scheduler = self.start_scheduler()
        self.workers = [self.start_worker() for _ in range(workers)]

    def start_scheduler(self) -> subprocess.Popen[bytes]:
        process = self._dask("scheduler", "--host", self.address, "--no-dashboard", "--no-show")
        (self.folder / "scheduler.pid").write_text(str(process.pid))
        return process

    def start_worker(self) -> subprocess.Popen[bytes]:
        options = ["--nthreads", "1", "--no-nanny", "--no-dashboard", "--local-directory", str(self.folder)]
        preload = ["--preload", self._preload] if self._preload else []
        return self._dask("worker", self.address, *options, *preload)

    def _dask(self, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.folder / "dask.log").open("ab") as log:
            command = ["env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "dask", *arguments]
            return subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT)

    def client(self, words: dict[str, Any]) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", CLIENT, str(self.folder), self.address, json.dumps(words)]
        with (self.folder / "client.log").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT)

    def end(self) -> None:
        for process in (self.scheduler, *self.workers):
            process.kill()
            process.wait()


def kills(count: int, seed: int) -> bool:
    """Kills worker, scheduler or client at random moments until all cells are made; counts what was done twice."""
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "control.json").write_text(json.dumps({"sleep": 0.5}))
        words: dict[str, Any] = {"models": MODELS[:3], "batches": list(range(1, 1 + max(count, 3))), "exporters": []}
        cells = len(words["models"]) * len(words["batches"])
        cluster = Cluster(folder, 2)
        killed: Counter[str] = Counter()
        client, runs = cluster.client(words), 1
        while True:
            try:
                code = client.wait(chance.uniform(0.5, 4.0) if killed.total() < count else None)
            except subprocess.TimeoutExpired:
                victim = chance.choice(("worker", "scheduler", "client"))
                killed[victim] += 1
                if victim == "worker":
                    index = chance.randrange(2)
                    end(cluster.workers[index])
                    cluster.workers[index] = cluster.start_worker()
                elif victim == "scheduler":
                    end(cluster.scheduler)
                    cluster.scheduler = cluster.start_scheduler()
                else:
                    end(client)
                    client, runs = cluster.client(words), runs + 1
                continue
            if code == 0:
                break
            client, runs = cluster.client(words), runs + 1  # it ended in one line
        cluster.end()
        log = [json.loads(line)["folder"] for line in (folder / "log.jsonl").read_text().splitlines()]
        lost = cells - len({*log})
        again = len(log) - len({*log})
        kinds = ", ".join(f"{number} {kind}s" for kind, number in killed.items())
        print(f"{killed.total()} kills ({kinds}), {cells} cells, {runs} commands: {lost} lost, {again} done again")
        return lost == 0 and again <= killed.total()


def end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def many(count: int) -> bool:
    """The memory of client and scheduler for many cells that take no time."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "preload.py").write_text(IN_PROCESS)
        cluster = Cluster(folder, 2, str(folder / "preload.py"))
        started = time.monotonic()
        code = cluster.client({"models": MODELS[:2], "batches": list(range(1, 1 + count // 2))}).wait()
        cluster.end()
        print(f"{count} cells in {time.monotonic() - started:.0f} s, exit code {code}")
        print("| cells | seconds | client MB | scheduler MB |\n|---|---|---|---|")
        rows = [json.loads(line) for line in (folder / "memory.jsonl").read_text().splitlines()]
        for row in rows:
            print(f"| {row['cells']} | {row['seconds']} | {row['client']} | {row['scheduler']} |")
        return code == 0


def digests(models: int, workers: int, every: int) -> bool:
    """The files of the cells of a real sweep against those of single exports, of every cell or of a part of them.

    The models are taken evenly from the catalog, so that every family is among them.
    """
    from deploytool.loading import catalog

    known = [model.name for model in catalog.models()]
    names = known[:: max(1, len(known) // models)][:models]
    targets = ("rtx30", "rtx40", "rtx50", "a100", "gb10")
    exporters = ("torchscript", "dynamo")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        words = ["--models", ",".join(names), "--targets", ",".join(targets), "--exporters", ",".join(exporters)]
        command = [sys.executable, "-m", "deploytool", "sweep", *words, "--quick", "--workers", str(workers)]
        times = [seconds([*command, "--out", str(folder / "sweep")]) for _ in range(2)]
        print(f"first sweep {times[0]:.0f} s, second {times[1]:.1f} s", flush=True)
        results = json.loads((folder / "sweep" / "sweep.json").read_text())["cells"]
        compared = results[::every]
        with ThreadPoolExecutor(2) as pool:
            different = sum(pool.map(lambda result: _differs(result, folder), compared))
        print(f"{len(results)} cells; {len(compared)} compared with single exports, {different} differ")
    return different == 0


def _differs(result: dict[str, Any], folder: Path) -> bool:
    """Whether a single export of a cell makes other files."""
    cell, out = result["cell"], folder / f"single-{result['cell']['name']}"
    options = ["--exporter", cell["exporter"], "--target", cell["target"], "--quick", "--out", str(out)]
    seconds([sys.executable, "-m", "deploytool", "export", cell["model"], *options])
    theirs: dict[str, str] = {}
    for receipt in out.glob("*/receipt.json"):
        files = json.loads(receipt.read_text())["files"]
        theirs |= {f"{receipt.parent.name}/{file}": digest for file, digest in files.items()}
    other = {key for key in {*theirs, *result["digests"]} if theirs.get(key) != result["digests"].get(key)}
    made = folder / "sweep" / cell["name"]
    other -= {
        key for key in other if key.endswith(".plan") and engines.content(made / key) == engines.content(out / key)
    }
    shutil.rmtree(out)
    other -= {"validate/report.json"}  # it has the time that the build of the engine took
    if other:
        print(cell["name"], sorted(other), flush=True)
    return bool(other)


def scaling(rounds: int) -> bool:
    """Untimed cells on one worker, as single exports, and on two workers, in turn; and single exports two at a time.

    The last says what the machine itself allows: two processes may each be slower than one alone. Prints the median of
    each ratio with its smallest and largest value; true if the medians of times meet the goals.
    """
    deploytool = [sys.executable, "-m", "deploytool"]
    ratios: dict[str, list[float]] = {}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as name:
            words = [*deploytool, "sweep", "--models", ",".join(ALIKE), "--quick", "--workers"]
            single = [[*deploytool, "export", model, "--quick", "--out"] for model in ALIKE]
            before = processor_seconds()
            one = seconds([*words, "1", "--out", f"{name}/one"])
            between = processor_seconds()
            alone = sum(seconds([*words, f"{name}/{index}"]) for index, words in enumerate(single))
            after = processor_seconds()
            two = seconds([*words, "2", "--out", f"{name}/two"])
            started = time.monotonic()
            with ThreadPoolExecutor(2) as pool:
                list(pool.map(lambda words: seconds([*words, tempfile.mkdtemp(dir=name)]), single))
            pairs = time.monotonic() - started
        print(
            f"one worker {one:.1f} s, single exports {alone:.1f} s, two workers {two:.1f} s, pairs {pairs:.1f} s",
            flush=True,
        )
        measured = {
            "one worker over single": one / alone,
            "one worker over two": one / two,
            "single over pairs": alone / pairs,
            "one worker over single, processor time": (between - before) / (after - between),
        }
        for what, ratio in measured.items():
            ratios.setdefault(what, []).append(ratio)
    for what, values in ratios.items():
        print(f"{what}: {statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})")
    overhead, gain, *_ = (statistics.median(values) for values in ratios.values())
    return overhead <= 1.05 and gain >= 1.7


def seconds(command: Sequence[str]) -> float:
    """The time of a command, with one thread for each cell."""
    start = time.monotonic()
    subprocess.run(["env", "OMP_NUM_THREADS=1", *command], cwd=ROOT, check=True, capture_output=True)
    return time.monotonic() - start


def processor_seconds() -> float:
    """The processor time of all commands that have ended: steadier than `seconds` where other work runs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("campaign", choices=("kills", "many", "digests", "scaling"))
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cells", type=int, default=10_000)
    parser.add_argument("--models", type=int, default=12)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--every", type=int, default=1, help="compare every n-th cell with a single export")
    given = parser.parse_args()
    passed = {
        "kills": lambda: kills(given.kills, given.seed),
        "many": lambda: many(given.cells),
        "digests": lambda: digests(given.models, given.workers, given.every),
        "scaling": lambda: scaling(given.rounds),
    }[given.campaign]()
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
