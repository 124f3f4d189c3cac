"""Where the cells of a sweep run, as options."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class ClusterOptions:
    """Where cells run: by default in this machine's own processes, as many as its memory and processors bear.

    `scheduler` is the address of a Dask scheduler, and `slurm` a file with the settings of dask-jobqueue; at most one
    of them is given. `workers` are the cells at a time, or the jobs of Slurm. The files for TLS are those of Dask: its
    own configuration is used without them. `wait_s` is the time to wait for a worker; while a job of Slurm waits for
    its turn, there is no limit.
    """

    scheduler: str = ""
    slurm: Path | None = None
    workers: int | None = None
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    wait_s: float = 60.0
