"""Workers as jobs of a real Slurm on loopback, and what is said where there is none."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploytool.errors import BadInput, MissingBackend, Unreachable
from deploytool.results.sweep import CellState
from deploytool.sweeps.cluster_options import ClusterOptions
from tests.conftest import ROOT
from tests.sweeps.conftest import FakeSweep, wait_for

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue")
MISSING = [name for name in PROGRAMS if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None]
needs_slurm = [
    pytest.mark.sweep,
    pytest.mark.skipif(bool(MISSING), reason=f"{', '.join(MISSING)} not installed (Debian: slurm-wlm, munge)"),
    pytest.mark.skipif(os.geteuid() != 0, reason="slurmd needs root"),
]
CONF = """
ClusterName=deploytool
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_min_interval=100000,sched_interval=1
SlurmctldPidFile={folder}/controller.pid
SlurmdPidFile={folder}/node.pid
SlurmdSpoolDir={folder}/spool
StateSaveLocation={folder}/state
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=8000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES State=UP
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def answer(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A controller and one node of two processors, with munge between them; the path of their configuration."""
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool"):
        (folder / name).mkdir()
    host = socket.gethostname()
    conf = CONF.format(host=host, folder=folder, controller_port=free_port(), node_port=free_port())
    (folder / "slurm.conf").write_text(conf)
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o600)
    names = {"key-file": "munge.key", "socket": "munge.sock", "pid-file": "munge.pid", "seed-file": "munge.seed"}
    munge = [f"--{option}={folder / name}" for option, name in names.items()]
    commands = (
        ["munged", "--foreground", "--force", f"--log-file={folder}/munge.log", *munge],
        ["slurmctld", "-D"],
        ["slurmd", "-D", "-N", host],
    )
    started = []
    env = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin", "SLURM_CONF": str(folder / "slurm.conf")}
    try:
        for command in commands:
            with (folder / f"{command[0]}.log").open("wb") as log:
                started.append(subprocess.Popen(command, env=env, stdout=log, stderr=log))
            if command[0] == "munged":
                wait_for((folder / "munge.sock").exists)
        show = ["env", f"SLURM_CONF={folder / 'slurm.conf'}", "sinfo", "--noheader", "--format=%T"]
        wait_for(lambda: answer(*show) == "idle")
        yield folder / "slurm.conf"
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait(30)


@pytest.fixture
def jobs(slurm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands and jobs of this test reach that Slurm, and jobs find the module with the cells."""
    monkeypatch.setenv("SLURM_CONF", str(slurm))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def described(folder: Path, **settings: object) -> Path:
    """A file for dask-jobqueue."""
    path = folder / "jobs.yaml"
    known = {"queue": "main", "cores": 1, "memory": "1GB", "walltime": "00:10:00", **settings}
    path.write_text(json.dumps({"jobqueue": {"slurm": known}}))  # JSON is YAML
    return path


@pytest.mark.usefixtures("jobs")
class TestSlurm:
    pytestmark = needs_slurm

    def test_cells_run_in_jobs_that_are_cancelled_afterwards(self, fake: FakeSweep) -> None:
        cluster = ClusterOptions(slurm=described(fake.folder), workers=2)
        fake.control(sleep=0.2)
        made = fake.run(cluster=cluster, batches=(1, 2))
        assert [result.state for result in made.cells] == [CellState.PASSED] * 6
        assert made.workers == 2
        assert wait_for(lambda: not answer("squeue", "--noheader"))
        written = fake.out / ".slurm"
        assert "tls://" in "".join(path.read_text() for path in written.glob("*.err"))
        assert not list(written.glob("**/*.pem"))

    def test_a_job_that_slurm_refuses_is_one_line(self, fake: FakeSweep) -> None:
        with pytest.raises(BadInput, match=r"Slurm refuses the jobs of .*jobs\.yaml: .*not available"):
            fake.run(cluster=ClusterOptions(slurm=described(fake.folder, memory="90GB"), workers=2))
        assert not answer("squeue", "--noheader")

    def test_jobs_that_end_at_once_are_not_waited_for(self, fake: FakeSweep) -> None:
        file = described(fake.folder, python="/bin/false")
        with pytest.raises(Unreachable, match="no worker") as refused:
            fake.run(cluster=ClusterOptions(slurm=file, workers=1, wait_s=3))
        assert str(fake.out / ".slurm") in refused.value.remedy

    def test_a_job_in_the_queue_is_waited_for(self, fake: FakeSweep) -> None:
        subprocess.run(["sbatch", "-n", "2", "-o", "/dev/null", "--wrap", "sleep 8"], check=True, capture_output=True)
        made = fake.run(cluster=ClusterOptions(slurm=described(fake.folder), workers=1, wait_s=1))
        assert {result.state for result in made.cells} == {CellState.PASSED}


@pytest.mark.parametrize("text", ["", "jobqueue: 3", "jobqueue:\n  slurm: [", "other: 1", "jobqueue:\n  slurm: text"])
def test_a_file_that_describes_no_jobs(fake: FakeSweep, text: str) -> None:
    path = fake.folder / "jobs.yaml"
    path.write_text(text)
    with pytest.raises(BadInput, match="not a configuration of dask-jobqueue"):
        fake.run(cluster=ClusterOptions(slurm=path))


@pytest.mark.parametrize("settings", [{"cores": None}, {"memory": "much"}, {"no-such-word": 1}])
def test_settings_that_dask_jobqueue_refuses(fake: FakeSweep, settings: dict[str, object]) -> None:
    with pytest.raises(BadInput, match=r"jobs\.yaml"):
        fake.run(cluster=ClusterOptions(slurm=described(fake.folder, **settings)))


def test_a_machine_without_slurm(fake: FakeSweep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(fake.folder))
    with pytest.raises(MissingBackend, match="sbatch does not start"):
        fake.run(cluster=ClusterOptions(slurm=described(fake.folder)))
