"""`deploytool report`: writes the page of a run or sweep, one page for several runs, JUnit XML, or a JSON Schema."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deploytool.cli import console, sweep_results
from deploytool.cli.command import Outcome
from deploytool.errors import BadInput
from deploytool.results import report as reports
from deploytool.results import sweep as sweeps

_COMPARISON_PAGE = Path("artifacts") / "report.html"  # the default page of several runs


def report(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="RUN...", help="Folders of runs, or of one sweep, or other folders with a report.json."),
    ] = None,
    page: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The file of the page for several runs.", show_default=str(_COMPARISON_PAGE)),
    ] = None,
    junit: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the checks of one run, or the cells of one sweep, as JUnit XML."),
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print one run as Markdown, for a CI job.")] = False,
    device: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", help="Add the output of `verify --json` or `bench --json` on a device to one run."
        ),
    ] = None,
    open_: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    schema_: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of report.json.")] = False,
    sweep_schema: Annotated[bool, typer.Option("--sweep-schema", help="Print the JSON Schema of sweep.json.")] = False,
) -> Outcome | None:
    """Writes RUN/report.html, one page that compares several runs, or sweep.html and sweep.csv of a sweep.

    Examples: deploytool report artifacts/shufflenet_g3 · deploytool report artifacts/shufflenet_g3 artifacts/mixnet_s
    """
    from deploytool.report import device_results, json_schema, run_data, sources, update  # imports numpy

    if schema_ or sweep_schema:
        for line in json_schema.published(json_schema.SWEEP_FILE if sweep_schema else json_schema.FILE).splitlines():
            console.line(line)
        return None
    homes = tuple(runs or ())
    _refuse(homes, page, junit, device, markdown=markdown)
    if len(homes) > 1:
        from deploytool.report import html  # imports matplotlib and jinja2

        written = html.write_comparison(homes, page or _COMPARISON_PAGE)
    elif sweeps.is_sweep(homes[0]):
        written = sweep_results.write(sweeps.read(homes[0]), homes[0], junit)
    else:
        for result in device or ():
            device_results.store(homes[0], result)
        written = update.refresh(reports.read(sources.find(homes[0])), homes[0], junit)
    if markdown:
        from deploytool.report import markdown as summary

        for line in summary.text(run_data.read(homes[0])).splitlines():
            console.line(line)
        return None
    console.say(console.stdout_console(), f"Report: {written}")
    if junit:
        console.say(console.stdout_console(), f"JUnit: {junit}")
    if open_ and not console.open_page(written):
        console.note("no graphical browser on this machine: open the file on another")
    return Outcome({"page": str(written), "junit": str(junit) if junit else None}, str(written))


def _refuse(
    homes: tuple[Path, ...], page: Path | None, junit: Path | None, device: list[Path] | None, *, markdown: bool
) -> None:
    """Raises BadInput for options that do not fit the number and the kind of the folders."""
    if not homes:
        raise BadInput("no run given", "give its folder: deploytool report artifacts/MODEL")
    several, found = len(homes) > 1, [home for home in homes if sweeps.is_sweep(home)]
    if found and several:
        raise BadInput(f"{found[0]} is a sweep, which has a page of its own", "give it alone, or folders of its cells")
    if markdown and (several or found):
        raise BadInput("--markdown works with one run only", "give the folder of one run")
    if found and device:
        raise BadInput("--device works with a run", "give the folder of the cell whose bundle the device ran")
    if junit and several:
        raise BadInput("--junit works with one run only", "write one file for each run")
    if device and several:
        raise BadInput("--device works with one run only", "give the run whose bundle the device ran")
    if page and not several:
        raise BadInput("--page works with several runs only", "the page of one run is RUN/report.html")
