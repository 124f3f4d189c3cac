"""`deploytool sweep`: exports every cell of a table, on this machine or on a Dask cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from deploytool.cli import completion, sweep_progress
from deploytool.cli import console as cli_console
from deploytool.cli.command import Outcome
from deploytool.cli.export_parameters import export_options
from deploytool.errors import (
    BadInput,
    DeployError,
    MissingBackend,
    NotVerified,
    ParityFailed,
    StageFailed,
    TooSlow,
    Unreachable,
)
from deploytool.results import sweep as sweep_results
from deploytool.results.sweep import CellResult, CellState, Sweep

_TABLE, _CLUSTER = "Table", "Cluster"
_ERRORS: Mapping[int, type[DeployError]] = {
    error.exit_code: error
    for error in (ParityFailed, TooSlow, NotVerified, StageFailed, MissingBackend, BadInput, Unreachable)
}  # by severity: the exit code of a sweep is that of its worst cell


def _export_table(context: typer.Context, value: Any) -> Any:
    """The `ExportOptions` that all cells share: those below [export] in the configuration file."""
    parent = context.parent
    if context.resilient_parsing or parent is None:
        return None
    group: Any = parent.command
    source = context.get_parameter_source("config")
    named = context.params.get("config") if source is not None and source.name == "COMMANDLINE" else None
    arguments = ["MODEL", *(["--config", str(named)] if named else [])]
    inner = group.get_command(parent, "export").make_context("export", arguments, parent=parent)
    return export_options(inner.params)


def sweep(
    models: Annotated[
        list[str] | None,
        typer.Option(
            help="Models, separated by commas, as `deploytool export` takes them.",
            metavar="MODEL,…",
            rich_help_panel=_TABLE,
            autocompletion=completion.model,
        ),
    ] = None,
    precisions: Annotated[
        list[str] | None,
        typer.Option(
            help="Precisions: fp32 ends at the FP32 graph, fp16 goes on to FP16 and engines.",
            metavar="NAME,…",
            show_default="fp16",
            rich_help_panel=_TABLE,
        ),
    ] = None,
    exporters: Annotated[
        list[str] | None,
        typer.Option(
            help="Exporters: auto, torchscript or dynamo.",
            metavar="NAME,…",
            show_default="auto",
            rich_help_panel=_TABLE,
        ),
    ] = None,
    targets: Annotated[
        list[str] | None,
        typer.Option(
            help="Targets to build engines for, or none for a cell without an engine.",
            metavar="TARGET,…",
            show_default="none",
            rich_help_panel=_TABLE,
            autocompletion=completion.target,
        ),
    ] = None,
    batches: Annotated[
        list[str] | None,
        typer.Option(
            help="Batch sizes: N or SMALLEST:TYPICAL:LARGEST.",
            metavar="RANGE,…",
            show_default="1:8:32",
            rich_help_panel=_TABLE,
        ),
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(
            help="A checkpoint for all models, or MODEL=FILE for one of them.", metavar="FILE", rich_help_panel=_TABLE
        ),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(help="A folder of photographs to use as golden images.", metavar="DIR", rich_help_panel=_TABLE),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help="Check parity only; plant no faults and measure no speed.", rich_help_panel=_TABLE
        ),
    ] = False,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            help="Leave out the cells that match: model=mobile*,target=orin.",
            metavar="WORD=PATTERN,…",
            rich_help_panel=_TABLE,
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="The folder of the sweep.", metavar="DIR", rich_help_panel=_TABLE)] = Path(
        "artifacts", "sweep"
    ),
    junit: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also write the cells as JUnit XML.", rich_help_panel=_TABLE),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Cells at a time, or jobs of Slurm.",
            min=1,
            max=10_000,
            show_default="as many as memory and processors allow",
            rich_help_panel=_CLUSTER,
        ),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            help="A Dask scheduler: tcp://HOST:PORT, or tls://HOST:PORT.",
            metavar="ADDRESS",
            rich_help_panel=_CLUSTER,
        ),
    ] = None,
    slurm: Annotated[
        Path | None,
        typer.Option(help="A file for dask-jobqueue: workers are jobs of Slurm.", rich_help_panel=_CLUSTER),
    ] = None,
    tls_ca: Annotated[
        Path | None,
        typer.Option(help="The certificate of the authority, for tls://.", rich_help_panel=_CLUSTER),
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option(help="The certificate of this client, for tls://.", rich_help_panel=_CLUSTER)
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="The key of that certificate.", rich_help_panel=_CLUSTER)] = None,
    export_table: Annotated[
        Any,
        typer.Option(help="The table [export], read from the file.", hidden=True, callback=_export_table, parser=str),
    ] = None,
) -> Outcome:
    """Exports every cell of a table (models × precisions × exporters × targets × batches); finished cells are kept.

    The table can be below [sweep] in deploytool.toml; options below [export] there hold for every cell.
    Examples: deploytool sweep --models mixnet_s,shufflenet_g3 --targets rtx40,orin --quick · deploytool sweep
    """
    from deploytool.pipeline import options as checks  # imports numpy
    from deploytool.report import junit as junit_xml
    from deploytool.sweeps import run as sweeps_run
    from deploytool.sweeps.cluster_options import ClusterOptions
    from deploytool.sweeps.table import SweepTable

    table = SweepTable(
        models=_names("--models", models),
        precisions=_names("--precisions", precisions),
        exporters=_names("--exporters", exporters),
        targets=_names("--targets", targets),
        batches=_names("--batches", batches),
        weights=weights or (),
        data=data or (),
        quick=quick,
        exclude=exclude or (),
    )
    cluster = ClusterOptions(
        scheduler=scheduler or "",
        slurm=slurm,
        workers=workers,
        tls_ca=tls_ca,
        tls_cert=tls_cert,
        tls_key=tls_key,
    )
    if junit is not None:
        checks.output_file("--junit", junit, out)
    request = sweeps_run.Request(table=table, options=export_table, out=out, cluster=cluster)
    with sweep_progress.follow(cli_console.stderr_console()) as follow:
        made = sweeps_run.run(request, follow)
    if junit is not None:
        junit_xml.write_sweep(junit, made)
    return _outcome(made, out)


def _names(option: str, texts: list[str] | None) -> Sequence[str]:
    """The names in texts with commas; raises BadInput if all are blank."""
    from deploytool.pipeline import options as checks  # imports numpy

    return checks.names(option, ",".join(texts)) if texts else ()


def _outcome(made: Sweep, out: Path) -> Outcome:
    """The document, and the failure of the worst cell if not all passed."""
    passed, bad = made.count(CellState.PASSED), [cell for cell in made.cells if cell.state is not CellState.PASSED]
    verdict = f"Verdict: {passed} of {len(made.cells)} cells passed."
    console = cli_console.stderr_console()
    cli_console.say(console, verdict)
    cli_console.unwrapped(console, f"Report: {out / sweep_results.PAGE}")
    return Outcome({"folder": str(out), "sweep": made}, verdict, _failure(bad, len(made.cells), out) if bad else None)


def _failure(bad: list[CellResult], cells: int, out: Path) -> DeployError:
    """The error with the exit code of the worst cell: a failed check first."""
    codes = [code for code in _ERRORS if any(result.exit_code == code for result in bad)]
    worst = next((result for result in bad if codes and result.exit_code == codes[0]), bad[0])
    problem = f"{len(bad)} of {cells} cells did not pass, such as {worst.cell.name}: {worst.problem}"
    remedy = worst.remedy or f"see {out / sweep_results.FILE}"
    return _ERRORS.get(worst.exit_code, StageFailed)(problem, remedy)
