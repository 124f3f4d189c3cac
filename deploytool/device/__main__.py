"""Command line of the device (`python -m deploytool.device`), with the parser of the standard library."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import Any, NoReturn

from deploytool.device import arguments
from deploytool.device.arguments import Argument
from deploytool.device.output import CommandOutput, Say
from deploytool.errors import DeployError, UnexpectedError
from deploytool.host import exception_text, terminal

_EPILOG = """exit codes: 0 success, 2 bad input, 3 parity failed, 5 a backend is missing, 6 not verified although
required, 7 a tool refused the model, 8 a bundle was refused, 9 unreachable, 130 interrupted"""
_REPORT = "report it, with the command"


def main(program: str = "python -m deploytool.device") -> NoReturn:
    """Runs the command line; a failure ends with one problem, one remedy and its own exit code.

    `program` is the name of the program in the usage.
    """
    terminal.replace_streams()
    try:
        code = _run(_parser(program).parse_args())
    except SystemExit as exit_request:  # from --help, or from a wrong use
        code = int(exit_request.code or 0)
    sys.exit(terminal.final_exit_code(code))


def call(command: str, values: argparse.Namespace, say: Say) -> CommandOutput:
    """Calls a command with the values of its arguments; `say` takes each line of progress.

    Raises DeployError if the command has no output to give.
    """
    return _calls(say)[command](values)


def _run(values: argparse.Namespace) -> int:
    """Calls the command, prints its output, and returns the exit code."""
    if values.verbose:
        _show_log()
    output = _output(values)
    if values.json:
        terminal.print_json({"result": output.document, "error": _error(output.failure)})
    elif not values.quiet:
        for line in output.lines:
            terminal.print_stdout(line)
    elif not output.failure:
        terminal.print_stdout(output.lines[output.verdict])
    if output.failure is None:
        return 0
    terminal.print_stderr(f"deploytool: {output.failure}")
    terminal.print_stderr(f"  → {output.failure.remedy}")
    return output.failure.exit_code


def _output(values: argparse.Namespace) -> CommandOutput:
    """The output of the command; any exception becomes a failure with a problem and a remedy."""
    try:
        return call(values.command, values, _discard if values.quiet else terminal.print_stderr)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:  # the outermost handler
        failure = exception_text.as_error(error)
        if isinstance(failure, UnexpectedError):
            failure.remedy = _REPORT
        return CommandOutput((), None, failure)


def _error(failure: DeployError | None) -> dict[str, str | int] | None:
    if failure is None:
        return None
    return {"problem": str(failure), "remedy": failure.remedy, "exit_code": failure.exit_code}


def _show_log() -> None:
    """Writes what the package logs to stderr."""

    class StderrHandler(logging.Handler):
        """Writes each record as one line, control characters escaped."""

        def emit(self, record: logging.LogRecord) -> None:
            """Writes one record."""
            terminal.print_stderr(record.getMessage())

    logger = logging.getLogger("deploytool")
    logger.setLevel(logging.DEBUG)
    logger.handlers = [StderrHandler()]


def _discard(line: str) -> None:
    """Drops a line of progress, as --quiet demands."""


def _calls(say: Say) -> dict[str, Callable[[argparse.Namespace], CommandOutput]]:
    from deploytool.device import commands  # imports numpy

    return {
        "verify": lambda args: commands.verify(
            args.bundle,
            root=args.root,
            digest=args.digest,
            key=args.key,
            require=args.require,
            build=args.build,
            say=say,
        ),
        "build": lambda args: commands.build(
            args.bundle,
            key=args.key,
            workspace=args.workspace,
            builder_memory=args.builder_memory,
            optimization_level=args.optimization_level,
            say=say,
        ),
        "run": lambda args: commands.run(
            args.bundle,
            args.images,
            top=args.top,
            min_score=args.min_score,
            draw=args.draw,
            key=args.key,
            require=args.require,
        ),
        "bench": lambda args: commands.bench(
            args.bundle,
            seconds=args.seconds,
            max_latency=args.max_latency,
            key=args.key,
            require=args.require,
            build=args.build,
            say=say,
        ),
        "install": lambda args: commands.install(
            args.bundle,
            args.root,
            digest=args.digest,
            key=args.key,
            require=args.require,
            build=args.build,
            say=say,
        ),
        "pull": lambda args: _pull(args, say),
        "status": lambda args: commands.status(args.root),
        "rollback": lambda args: commands.rollback(args.root, key=args.key),
        "pardon": lambda args: commands.pardon(args.digest, args.root),
        "clean": lambda args: commands.clean(args.root, yes=args.yes),
        "doctor": lambda args: commands.doctor(args.target, args.bundle),
    }


def _pull(args: argparse.Namespace, say: Say) -> CommandOutput:
    from deploytool.device import commands
    from deploytool.transfer import auth

    return commands.pull(
        args.address,
        args.out,
        target=args.target,
        digest=args.digest,
        key=args.key,
        reuse_from=args.reuse_from or (),
        plain_http=args.plain_http,
        ca=args.ca,
        timeout=args.timeout,
        logins=auth.config_path(os.environ.get("DOCKER_CONFIG")),
        say=say,
    )


class _Parser(argparse.ArgumentParser):
    """Reports a wrong use with control characters in the arguments escaped."""

    def error(self, message: str) -> NoReturn:
        """Writes the usage and the problem to stderr, and exits with 2."""
        for line in self.format_usage().splitlines():
            terminal.print_stderr(line)
        terminal.print_stderr(f"{self.prog}: error: {message}")
        sys.exit(2)


def _parser(program: str = "deploytool") -> argparse.ArgumentParser:
    parser = _Parser(
        prog=program,
        description="Verifies, builds, runs and installs bundles on the device they are made for.",
        epilog=_EPILOG,
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in arguments.COMMANDS.items():
        epilog = f"Example: {program} {name} {command.example}"
        subparser = subparsers.add_parser(name, help=command.summary, description=command.description, epilog=epilog)
        subparser.add_argument("--json", action="store_true", help="Print one JSON document on stdout.")
        verbosity = subparser.add_mutually_exclusive_group()
        verbosity.add_argument("--quiet", "-q", action="store_true", help="Print only the verdict, or the error.")
        verbosity.add_argument("--verbose", "-v", action="store_true", help="Also print decisions.")
        for argument in command.arguments:
            _add(subparser, argument)
    return parser


def _add(parser: argparse.ArgumentParser, argument: Argument) -> None:
    """Adds a declared argument to a parser."""
    if argument.kind is bool:
        parser.add_argument(argument.flag, dest=argument.name, action="store_true", help=argument.help)
        return
    help_text = f"{argument.help} (default: {argument.default})" if argument.default else argument.help
    settings: dict[str, Any] = {"help": help_text, "metavar": argument.metavar, "default": argument.default}
    if issubclass(argument.kind, Enum):
        settings |= {"choices": [choice.value for choice in argument.kind]}
    else:
        settings |= {"type": partial(_parse_value, argument)}
    if not argument.flag:
        parser.add_argument(argument.name, **settings, nargs="+" if argument.repeated else None)
        return
    settings |= {"action": "append"} if argument.repeated else {}
    parser.add_argument(argument.flag, dest=argument.name, required=argument.required, **settings)


def _parse_value(argument: Argument, text: str) -> Any:
    try:
        value = argument.kind(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"invalid {argument.kind.__name__} value: {text!r}") from error
    low, high = argument.minimum, argument.maximum
    if (low is not None and not value >= low) or (high is not None and not value <= high):
        limits = f"at least {low:g}" + ("" if high is None else f" and at most {high:g}")
        raise argparse.ArgumentTypeError(f"{text} is out of range: it must be {limits}")
    return value


if __name__ == "__main__":
    main()
