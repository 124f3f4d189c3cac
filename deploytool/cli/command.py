"""What every command shares: --quiet, --verbose, --json and --config, one way to answer and one way to end."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Mapping
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
from deploytool.host import terminal


@dataclass(frozen=True)
class Outcome:
    """What a command has to say in the end: a document for programs, a verdict in one line, and what comes next.

    The document gets the failure besides, under `error`. `next` is a command, or a sentence with one.
    """

    document: Mapping[str, object]
    verdict: str
    failure: DeployError | None = None
    next: str | None = None


def _configure(context: typer.Context, named: Path | None) -> Path | None:
    """Makes the settings of a file this command's defaults, before any other option is looked at."""
    above = context.parent
    if context.resilient_parsing or above is None:
        return named
    found = cli_config.find(named or above.params.get("config"))
    if found:
        group: Any = above.command
        context.default_map = cli_config.defaults(found, context, group.list_commands(above))
        context.meta["deploytool.settings"] = found.file
        return found.file
    return named


_QUIET = Annotated[
    bool, typer.Option("--quiet", "-q", help="Say only the verdict, or what failed.", rich_help_panel=SHARED)
]
_VERBOSE = Annotated[
    bool, typer.Option("--verbose", "-v", help="Say what was decided, and what tools say.", rich_help_panel=SHARED)
]
_JSON = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.", rich_help_panel=SHARED)]
_FILE = "Defaults for options: deploytool.toml, or [tool.deploytool] in pyproject.toml."
_CONFIG = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help=_FILE,
        show_default="found here or above",
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


def before(
    context: typer.Context,
    config: Annotated[Path | None, typer.Option("--config", metavar="FILE", help=_FILE, rich_help_panel=SHARED)] = None,
    quiet: _QUIET = False,
    verbose: _VERBOSE = False,
    as_json: _JSON = False,
) -> None:
    """The shared options before the command's name."""
    context.obj = OutputMode(quiet, verbose, as_json)


def with_shared_options(command: Callable[..., Outcome | None]) -> Callable[..., None]:
    """A command with the shared options beside its own, and its outcome shown in the manner they ask for.

    A command that has an option of the same name keeps its own.
    """
    own = inspect.signature(command, eval_str=True).parameters
    added = {name: each for name, each in _SHARED.items() if name not in own}

    @wraps(command)
    def called(context: typer.Context, **given: Any) -> None:
        shared = {name: given.pop(name) if name in added else given.get(name) for name in _SHARED}
        _adopt(context, shared)
        begun = time.monotonic()
        _explain(context)
        apart = console.manner().json and "as_json" in added  # a model that prints spoils no document
        with terminal.stdout_to_stderr() if apart else nullcontext():
            outcome = command(**given)
        console.detail(f"took {time.monotonic() - begun:.2f} s")
        if outcome:
            _show(outcome)

    kinds = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, (kind, default) in added.items()
    ]
    first = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    named = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own.values()]
    signature = inspect.Signature([first, *named, *kinds])
    called.__signature__ = signature  # type: ignore[attr-defined]  # what typer reads
    called.__annotations__ = {name: each.annotation for name, each in signature.parameters.items()}
    return called


def _adopt(context: typer.Context, shared: Mapping[str, Any]) -> None:
    """The manner that was asked for before the command's name or behind it."""
    above: OutputMode = context.obj or OutputMode()
    manner = OutputMode(
        above.quiet or bool(shared["quiet"]),
        above.verbose or bool(shared["verbose"]),
        above.json or bool(shared["as_json"]),
    )
    console.set_mode(manner)
    if manner.quiet and manner.verbose:
        raise BadInput("--quiet and --verbose were both asked for", "choose one")
    console.listen()


def _explain(context: typer.Context) -> None:
    """Where the options are from, for --verbose."""
    file = context.meta.get("deploytool.settings")
    taken = (context.get_parameter_source(name) for name in context.params)
    if any(source is not None and source.name == "DEFAULT_MAP" for source in taken):
        console.note(f"options from {file}")
    console.detail(f"configuration: {file or 'no file'}")
    for name, value in context.params.items():
        source = context.get_parameter_source(name)
        if source is not None and source.name in ("COMMANDLINE", "DEFAULT_MAP") and name not in _SHARED:
            where = "command line" if source.name == "COMMANDLINE" else file
            console.detail(f"  {name.strip('_').replace('_', '-')} = {getattr(value, 'value', value)} ({where})")


def _show(outcome: Outcome) -> None:
    spoken = console.manner()
    if spoken.json:
        console.document({**outcome.document, "error": console.with_lines(outcome.failure)})
    elif spoken.quiet and not outcome.failure:
        console.line(outcome.verdict)
    if outcome.failure:
        console.failure(outcome.failure)
        raise typer.Exit(outcome.failure.exit_code)
    if outcome.next:
        console.unwrapped(console.stdout_console(), f"Next: {outcome.next}")
