"""Where the cells of a sweep run, as options."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deploytool.errors import BadInput


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

    def check(self) -> None:
        """Raises BadInput for options that exclude each other, or do nothing without another one."""
        if self.scheduler and self.slurm:
            raise BadInput("--scheduler and --slurm are mutually exclusive", "leave one of them out")
        if not self.scheduler and (self.tls_ca or self.tls_cert or self.tls_key):
            raise BadInput(
                "there are certificates, and no scheduler to use them with", "add --scheduler tls://HOST:PORT"
            )
