"""The workers of a sweep as jobs of Slurm, by dask-jobqueue; they and the scheduler speak TLS, made for one sweep."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dask import config as dask_config
from distributed.core import Status
from distributed.security import Security

from deploytool.errors import BadInput, MissingBackend
from deploytool.host import exception_text

if TYPE_CHECKING:
    from dask_jobqueue.slurm import SLURMCluster

_FOLDER = ".slurm"  # of the sweep: what jobs write, and the certificates that they begin with
_DASHBOARD = "127.0.0.1:0"  # by default it would listen on every interface
_COMMAND_S = 60
_NOWHERE = "tls://127.0.0.1:1"


@contextmanager
def started(path: Path, workers: int, out: Path) -> Iterator[SLURMCluster]:
    """A scheduler in this process, and one job for each worker, as a file for dask-jobqueue describes it.

    The jobs are cancelled afterwards. Raises BadInput for an invalid file and for jobs that Slurm refuses, and
    MissingBackend without dask-jobqueue or Slurm.
    """
    try:
        from dask_jobqueue.slurm import SLURMCluster  # its defaults are in Dask's configuration from now on
    except ImportError as error:
        raise MissingBackend("dask-jobqueue is not installed", "pip install 'deploytool[sweep]'") from error
    settings = _settings(path)
    folder = out / _FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    known = {**dask_config.get("jobqueue.slurm"), "log-directory": str(folder), **settings}
    with (
        dask_config.set({"jobqueue.slurm": known}),
        tempfile.TemporaryDirectory(dir=folder, prefix="tls-", ignore_cleanup_errors=True) as certificates,
    ):
        options = {"dashboard_address": _DASHBOARD, **(settings.get("scheduler-options") or {})}
        try:
            # alone first: a cluster that does not begin cannot be closed
            SLURMCluster.job_cls(_NOWHERE, "try", processes=1)  # type: ignore[no-untyped-call]
            cluster = SLURMCluster(
                processes=1,
                security=_security(Path(certificates)),
                scheduler_options=options,
                silence_logs=False,
            )
        except (ValueError, TypeError, RuntimeError, OSError) as error:
            raise BadInput(f"{path}: {exception_text.describe(error)}", "correct the file") from error
        try:
            _submit(cluster, workers, path)
            yield cluster
        finally:
            for job in cluster.workers.values():
                job.status = Status.closed  # Dask expects it of every job, and dask-jobqueue does not set it
            cluster.close()


def has_jobs(cluster: SLURMCluster) -> bool:
    """Whether a job of this cluster waits or runs; True if Slurm does not answer in time."""
    numbers = ",".join(str(job.job_id) for job in cluster.workers.values() if job.job_id)
    if not numbers:
        return False
    command = ["squeue", "--noheader", "--format=%i", f"--jobs={numbers}"]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_S, check=False)
    except subprocess.TimeoutExpired:
        return True  # a controller that is busy says nothing about the jobs
    return bool(ended.stdout.strip())


def no_worker_remedy(out: Path) -> str:
    """What to do if jobs end without becoming workers."""
    return f"see what they wrote to {out / _FOLDER}"


def _settings(path: Path) -> Mapping[str, Any]:
    try:
        settings = next(iter(dask_config.collect_yaml([str(path)])))["jobqueue"]["slurm"]
        return {str(name).replace("_", "-"): value for name, value in settings.items()}
    except (OSError, ValueError, StopIteration, KeyError, TypeError, AttributeError) as error:
        problem = f"{path} is not a configuration of dask-jobqueue: {exception_text.describe(error)}"
        raise BadInput(problem, "write YAML with jobqueue: slurm: queue, cores, memory, …") from error


def _security(folder: Path) -> Security:
    """New certificates, in files that jobs see and only this user can read."""
    made = Security.temporary().get_tls_config_for_role("worker")
    files = {}
    for name in ("ca_file", "cert", "key"):
        path = folder / f"{name}.pem"
        path.write_text(made[name], encoding="ascii")
        files[name] = str(path)
    roles = {
        f"tls_{role}_{name}": files[name] for role in ("client", "scheduler", "worker") for name in ("cert", "key")
    }
    return Security(require_encryption=True, tls_ca_file=files["ca_file"], **roles)


def _submit(cluster: SLURMCluster, workers: int, path: Path) -> None:
    """Gives the jobs to Slurm; raises BadInput with Slurm's answer if it refuses all of them."""

    async def submit() -> None:
        cluster.scale(jobs=workers)  # type: ignore[no-untyped-call]
        await cluster

    try:
        cluster.sync(submit)  # type: ignore[no-untyped-call]
    except OSError as error:
        problem = f"{cluster.job_cls.submit_command} does not start: {exception_text.describe(error)}"
        raise MissingBackend(problem, "run the sweep on a machine that can give jobs to Slurm") from error
    except RuntimeError as error:
        if not any(job.job_id for job in cluster.workers.values()):
            answer = str(error).strip().splitlines()[-1]
            problem = f"Slurm refuses the jobs of {path}: {answer}"
            raise BadInput(problem, "correct queue, memory, cores and walltime there") from error
