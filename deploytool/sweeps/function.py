"""`deploytool.sweep()`: the same words as the command, and a frozen result."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from deploytool import api
from deploytool.errors import BadInput
from deploytool.host import exception_text
from deploytool.pipeline.export_options import ExportOptions
from deploytool.results.sweep import Sweep
from deploytool.results.sweep_events import Follow, ignore
from deploytool.sweeps.cluster_options import ClusterOptions
from deploytool.sweeps.run import Request, run
from deploytool.sweeps.table import SweepTable


def sweep(
    models: str | Sequence[str | Path],
    *,
    precisions: str | Sequence[str] = (),
    exporters: str | Sequence[str] = (),
    targets: str | Sequence[str] = (),
    batches: str | int | Sequence[str | int] = (),
    weights: str | Path | Sequence[str | Path] = (),
    data: str | Path | Sequence[str | Path] = (),
    quick: bool = False,
    exclude: str | Sequence[str] = (),
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
    One value alone stands for a list of it.
    `export` are options of `deploytool.export` that all cells share.

    By default cells run as processes of this machine, `workers` at a time. `scheduler` is the address of a Dask
    scheduler instead, with the files for TLS; `slurm` is a file for dask-jobqueue. `follow` is called with every
    event (`deploytool.results.sweep_events`).

    A cell that fails is a result. Raises BadInput for an invalid table and if another sweep works in `out`,
    MissingBackend without the extra `sweep` and for workers with other versions, and Unreachable if the scheduler is
    gone; what was finished is kept.
    """
    api.check_keywords(export or {})
    if not isinstance(quick, bool):
        raise BadInput(f"quick cannot be {_shown(quick)}", "write quick as True or False")
    if workers is not None and (not isinstance(workers, int) or isinstance(workers, bool) or workers < 1):
        raise BadInput(f"workers cannot be {_shown(workers)}", "write workers as an integer from 1 on")
    table = SweepTable(
        models=_texts("models", models),
        precisions=_texts("precisions", precisions),
        exporters=_texts("exporters", exporters),
        targets=_texts("targets", targets),
        batches=_texts("batches", batches),
        weights=_texts("weights", weights),
        data=_texts("data", data),
        quick=quick,
        exclude=_texts("exclude", exclude),
    )
    cluster = ClusterOptions(
        scheduler=str(scheduler or ""),
        slurm=_path(slurm),
        workers=workers,
        tls_ca=_path(tls_ca),
        tls_cert=_path(tls_cert),
        tls_key=_path(tls_key),
    )
    return run(Request(table=table, options=ExportOptions(**(export or {})), out=Path(out), cluster=cluster), follow)


def _texts(word: str, values: object) -> list[str]:
    """The values of a word as texts; one alone stands for a list of it. Raises BadInput for other types."""
    given = [values] if isinstance(values, (str, int, PurePath)) else () if values is None else values
    texts = list(given) if isinstance(given, Iterable) else [given]
    for value in texts:
        if isinstance(value, bool) or not isinstance(value, (str, PurePath, *((int,) if word == "batches" else ()))):
            raise BadInput(f"{word} cannot have {_shown(value)}", f"write {word} as a list of strings")
    return [str(value) for value in texts]


def _shown(value: object) -> str:
    return exception_text.clean(reprlib.repr(value))


def _path(value: str | Path | None) -> Path | None:
    return None if value is None else Path(value)
