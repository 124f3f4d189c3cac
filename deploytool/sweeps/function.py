"""`deploytool.sweep()`: the same words as the command, and a frozen result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deploytool import api
from deploytool.pipeline.export_options import ExportOptions
from deploytool.results.sweep import Sweep
from deploytool.results.sweep_events import Follow, ignore
from deploytool.sweeps.cluster_options import ClusterOptions
from deploytool.sweeps.run import Request, run
from deploytool.sweeps.table import SweepTable


def sweep(
    models: Sequence[str],
    *,
    precisions: Sequence[str] = (),
    exporters: Sequence[str] = (),
    targets: Sequence[str] = (),
    batches: Sequence[str | int] = (),
    weights: Sequence[str | Path] = (),
    data: Sequence[str | Path] = (),
    quick: bool = False,
    exclude: Sequence[str] = (),
    export: Mapping[str, Any] | None = None,
    out: str | Path = Path("artifacts", "sweep"),
    scheduler: str = "",
    slurm: str | Path | None = None,
    workers: int | None = None,
    tls_ca: str | Path | None = None,
    tls_cert: str | Path | None = None,
    tls_key: str | Path | None = None,
    follow: Follow = ignore,
) -> Sweep:
    """Exports every cell of a table, each in a folder of its own below `out`; a second call makes only what is missing.

    The cells are the product of `models`, `precisions` (fp32, fp16), `exporters` (auto, torchscript, dynamo),
    `targets` (as `deploytool targets` lists them, or none), `batches` (`8` or `1:8:32`), `weights` (files, or
    `MODEL=FILE`) and `data` (folders), without those that an entry of `exclude` matches: `model=mobile*,target=orin`.
    `export` are options of `deploytool.export` that all cells share.

    By default cells run as processes of this machine, `workers` at a time. `scheduler` is the address of a Dask
    scheduler instead, with the files for TLS; `slurm` is a file for dask-jobqueue. `follow` is called with every
    event (`deploytool.results.sweep_events`).

    A cell that fails is a result. Raises BadInput for an invalid table and if another sweep works in `out`,
    MissingBackend without the extra `sweep` and for workers with other versions, and Unreachable if the scheduler is
    gone; what was finished is kept.
    """
    api.check_keywords(export or {})
    table = SweepTable(
        models=models,
        precisions=precisions,
        exporters=exporters,
        targets=targets,
        batches=batches,
        weights=weights,
        data=data,
        quick=quick,
        exclude=exclude,
    )
    cluster = ClusterOptions(
        scheduler=scheduler,
        slurm=_path(slurm),
        workers=workers,
        tls_ca=_path(tls_ca),
        tls_cert=_path(tls_cert),
        tls_key=_path(tls_key),
    )
    return run(Request(table=table, options=ExportOptions(**(export or {})), out=Path(out), cluster=cluster), follow)


def _path(value: str | Path | None) -> Path | None:
    return None if value is None else Path(value)
