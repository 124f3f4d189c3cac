"""The shared options of all commands (--quiet, --verbose, --json, --config), and how an outcome is printed."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from deploytool.cli import config as cli_config
from deploytool.cli import console
from deploytool.cli.console import OutputMode
from deploytool.cli.listing import SHARED
from deploytool.errors import BadInput, DeployError
from deploytool.host import machine, terminal


@dataclass(frozen=True)
class Outcome:
    """The outcome of a command: the JSON document, the verdict in one line, the error, and the next step.

    The printed document also has the failure, under `error`. `next` is a command, or a sentence with one.
    """

    document: Mapping[str, object]
    verdict: str
    failure: DeployError | None = None
    next: str | None = None


def _configure(context: typer.Context, named: Path | None) -> Path | None:
    """Reads the configuration file into the defaults of this command; it is called before other options are parsed."""
    parent = context.parent
    if context.resilient_parsing or parent is None:
        return named
    settings = cli_config.find(named or parent.params.get("config"))
    if settings:
        group: Any = parent.command
        context.default_map = cli_config.defaults(settings, context, group.list_commands(parent))
        context.meta["deploytool.settings"] = settings.file
        return settings.file
    return named


_QUIET = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print only the verdict, or the error.", rich_help_panel=SHARED)
]
_VERBOSE = Annotated[
    bool,
    typer.Option("--verbose", "-v", help="Also print decisions and the output of tools.", rich_help_panel=SHARED),
]
_JSON = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.", rich_help_panel=SHARED)]
_CONFIG_HELP = "File with defaults for options: deploytool.toml, or pyproject.toml with [tool.deploytool]."
_CONFIG = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help=_CONFIG_HELP,
        show_default="searched for here and in parent folders",
        is_eager=True,
        callback=_configure,
        rich_help_panel=SHARED,
    ),
]
_SHARED: Mapping[str, tuple[Any, Any]] = {
    "config": (_CONFIG, None),
    "quiet": (_QUIET, False),
    "verbose": (_VERBOSE, False),
    "as_json": (_JSON, False),
}


def _print_version(wanted: bool) -> None:
    if wanted:
        console.say(console.stdout_console(), f"deploytool {machine.version('deploytool') or '(not installed)'}")
        raise typer.Exit


def before(
    context: typer.Context,
    *,
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help=_CONFIG_HELP, rich_help_panel=SHARED)
    ] = None,
    quiet: _QUIET = False,
    verbose: _VERBOSE = False,
    as_json: _JSON = False,
) -> None:
    """Handles the shared options before the command's name."""
    context.obj = OutputMode(quiet, verbose, as_json)


def with_shared_options(command: Callable[..., Outcome | None]) -> Callable[..., None]:
    """A function that adds the shared options to a command and prints its outcome in the requested output mode.

    A command that already has an option of the same name keeps its own.
    """
    own = inspect.signature(command, eval_str=True).parameters
    added = {name: option for name, option in _SHARED.items() if name not in own}

    @wraps(command)
    def run(context: typer.Context, **values: Any) -> None:
        shared = {name: values.pop(name) if name in added else values.get(name) for name in _SHARED}
        _set_mode(context, shared)
        start = time.monotonic()
        _log_options(context)
        redirect = console.mode().json and "as_json" in added  # a model may print, and stdout is for the document
        with terminal.stdout_to_stderr() if redirect else nullcontext():
            outcome = command(**values)
        console.detail(f"took {time.monotonic() - start:.2f} s")
        if outcome:
            _show(outcome)

    signature = _signature(own.values(), added)
    run.__signature__ = signature  # type: ignore[attr-defined]  # read by typer
    run.__annotations__ = {name: parameter.annotation for name, parameter in signature.parameters.items()}
    return run


def _signature(own: Iterable[inspect.Parameter], added: Mapping[str, tuple[Any, Any]]) -> inspect.Signature:
    """The context, a command's own parameters and the shared ones, all by keyword."""
    shared = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, (kind, default) in added.items()
    ]
    context = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    by_keyword = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
    return inspect.Signature([context, *by_keyword, *shared])


def _set_mode(context: typer.Context, shared: Mapping[str, Any]) -> None:
    """Sets the output mode from the shared options before and after the command's name."""
    before_name: OutputMode = context.obj or OutputMode()
    mode = OutputMode(
        before_name.quiet or bool(shared["quiet"]),
        before_name.verbose or bool(shared["verbose"]),
        before_name.json or bool(shared["as_json"]),
    )
    console.set_mode(mode)
    if mode.quiet and mode.verbose:
        raise BadInput("--quiet and --verbose are mutually exclusive", "choose one")
    console.show_logs()


def _log_options(context: typer.Context) -> None:
    """Prints where the options come from; all but the first line only with --verbose."""
    file = context.meta.get("deploytool.settings")
    sources = (context.get_parameter_source(name) for name in context.params)
    if any(source is not None and source.name == "DEFAULT_MAP" for source in sources):
        console.note(f"options from {file}")
    console.detail(f"configuration: {file or 'no file'}")
    for name, value in context.params.items():
        source = context.get_parameter_source(name)
        if source is not None and source.name in ("COMMANDLINE", "DEFAULT_MAP") and name not in _SHARED:
            where = "command line" if source.name == "COMMANDLINE" else file
            shown = ",".join(map(str, value)) if isinstance(value, (list, tuple)) else getattr(value, "value", value)
            console.detail(f"  {name.strip('_').replace('_', '-')} = {shown} ({where})")


def _show(outcome: Outcome) -> None:
    """Prints an outcome in the current output mode; raises typer.Exit with the exit code of a failure."""
    mode = console.mode()
    if mode.json:
        console.document({**outcome.document, "error": console.error_document(outcome.failure)})
    elif mode.quiet and not outcome.failure:
        console.line(outcome.verdict)
    if outcome.failure:
        console.failure(outcome.failure)
        raise typer.Exit(outcome.failure.exit_code)
    if outcome.next:
        console.unwrapped(console.stdout_console(), f"Next: {outcome.next}")
