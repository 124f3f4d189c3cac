"""`deploytool report`: writes the page of a run, one page for several runs, JUnit XML, or the schema of report.json."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deploytool.cli import console
from deploytool.cli.command import Outcome
from deploytool.errors import BadInput
from deploytool.results import report as reports

_COMPARISON_PAGE = Path("artifacts") / "report.html"  # the default page of several runs


def report(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="RUN...", help="Folders of runs, or other folders with a report.json."),
    ] = None,
    page: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The file of the page for several runs.", show_default=str(_COMPARISON_PAGE)),
    ] = None,
    junit: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the checks of one run as JUnit XML.")
    ] = None,
    device: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", help="Add the output of `verify --json` or `bench --json` on a device to one run."
        ),
    ] = None,
    open_: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    schema_: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of report.json.")] = False,
) -> Outcome | None:
    """Writes RUN/report.html, or one page that compares several runs.

    Examples: deploytool report artifacts/shufflenet_g3 · deploytool report artifacts/shufflenet_g3 artifacts/mixnet_s
    """
    from deploytool.report import device_results, json_schema, run_data, update  # imports numpy

    if schema_:
        for line in json_schema.published().splitlines():
            console.line(line)
        return None
    homes = tuple(runs or ())
    if not homes:
        raise BadInput("no run given", "give its folder: deploytool report artifacts/MODEL")
    several = len(homes) > 1
    if junit and several:
        raise BadInput("--junit works with one run only", "write one file for each run")
    if device and several:
        raise BadInput("--device works with one run only", "give the run whose bundle the device ran")
    if page and not several:
        raise BadInput("--page works with several runs only", "the page of one run is RUN/report.html")
    if several:
        from deploytool.report import html  # imports matplotlib and jinja2

        written = html.write_comparison(homes, page or _COMPARISON_PAGE)
    else:
        for result in device or ():
            device_results.store(homes[0], result)
        written = update.refresh(reports.read(run_data.find(homes[0])), homes[0], junit)
    console.say(console.stdout_console(), f"Report: {written}")
    if junit:
        console.say(console.stdout_console(), f"JUnit: {junit}")
    if open_ and not console.open_page(written):
        console.note("no graphical browser on this machine: open the file on another")
    return Outcome({"page": str(written), "junit": str(junit) if junit else None}, str(written))
