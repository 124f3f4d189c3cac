"""`deploytool report`: a run's page drawn anew, several runs on one page, JUnit XML, or the schema of report.json."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deploytool.cli import console
from deploytool.cli.command import Outcome
from deploytool.errors import BadInput
from deploytool.results import report as reports

_FAMILY = Path("artifacts") / "report.html"


def report(
    runs: Annotated[
        list[Path] | None, typer.Argument(metavar="RUN...", help="Folders of runs, or others with a report.json.")
    ] = None,
    page: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The page of several runs.", show_default=str(_FAMILY))
    ] = None,
    junit: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the checks of one run as JUnit XML.")
    ] = None,
    device: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", help="What `verify` or `bench` printed on a device with --json: one run keeps it."
        ),
    ] = None,
    open_: Annotated[bool, typer.Option("--open", help="Show the page in a browser, where there is a screen.")] = False,
    schema_: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of report.json.")] = False,
) -> Outcome | None:
    """Writes RUN/report.html, or with several runs one page that has them side by side.

    Examples: deploytool report artifacts/shufflenet_g3 · deploytool report artifacts/shufflenet_g3 artifacts/mixnet_s
    """
    from deploytool.report import device_results, json_schema, run_data, update  # here begins numpy

    if schema_:
        for line in json_schema.published().splitlines():
            console.line(line)
        return None
    homes = tuple(runs or ())
    if not homes:
        raise BadInput("there is no run to report on", "name the folder of one: deploytool report artifacts/MODEL")
    several = len(homes) > 1
    if junit and several:
        raise BadInput("--junit takes one run", "write one file for each")
    if device and several:
        raise BadInput("--device is for one run", "name the run whose bundle the device ran")
    if page and not several:
        raise BadInput("--page is for the page of several runs", "the page of one lies in its folder")
    if several:
        from deploytool.report import html  # here begin matplotlib and jinja2

        written = html.write_comparison(homes, page or _FAMILY)
    else:
        for document in device or ():
            device_results.store(homes[0], document)
        written = update.refresh(reports.read(run_data.find(homes[0])), homes[0], junit)
    console.say(console.stdout_console(), f"Report: {written}")
    if junit:
        console.say(console.stdout_console(), f"JUnit: {junit}")
    if open_ and not console.open_page(written):
        console.note("there is no screen or no browser here: open that file where there is one")
    return Outcome({"page": str(written), "junit": str(junit) if junit else None}, str(written))
