"""`python -m deploytool.device`: the device's commands with the standard library's own parser."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from deploytool.device.candidates import LEAST
from deploytool.device.output import CommandOutput, Say
from deploytool.errors import DeployError, Unforeseen
from deploytool.host import exception_text, terminal

_EPILOG = """exit codes: 0 all that was asked for held, 2 bad input, 3 parity failed, 5 a backend is missing,
6 not verified although required, 7 a tool refused the model, 8 a bundle was refused, 9 unreachable, 130 interrupted"""
_REMEDY = "report it, with the command"
COMMANDS = {
    "verify": "check a bundle's bytes and age, and what it computes on this machine",
    "build": "build an engine for this machine from the bundle's graph, and prove it",
    "run": "say what the model sees in pictures",
    "bench": "time every way to run the bundle that works here",
    "install": "copy a bundle under a root, prove it there, and turn to it",
    "pull": "fetch a bundle, or what a target needs of it, every byte verified as it comes",
    "rollback": "turn back to the bundle before",
    "pardon": "let a bundle that was given up after three failed starts be installed again",
    "clean": "show what killed commands left under an install root, and with --yes remove it",
    "doctor": "say what this machine can build, run and verify, and what mends it",
}


def main(name: str = "python -m deploytool.device") -> NoReturn:
    """Parses, does, prints; a failure ends with one problem, one remedy and its own exit code.

    `name` is what the usage calls the program.
    """
    terminal.replace_streams()
    try:
        code = _called(_parser(name).parse_args())
    except SystemExit as ended:  # help, or a wrong use
        code = int(ended.code or 0)
    sys.exit(terminal.final_exit_code(code))


def _called(asked: argparse.Namespace) -> int:
    if asked.verbose:
        _listen()
    told = _told(asked)
    if asked.json:
        terminal.put({"result": told.document, "error": _error(told.failure)})
    elif not asked.quiet:
        for line in told.lines:
            terminal.say(line)
    elif not told.failure:
        terminal.say(told.lines[told.verdict])
    if told.failure is None:
        return 0
    terminal.note(f"deploytool: {told.failure}")
    terminal.note(f"  → {told.failure.remedy}")
    return told.failure.exit_code


def _told(asked: argparse.Namespace) -> CommandOutput:
    """What the command has to say; whatever is raised becomes a failure that can be told."""
    try:
        return _commands(_silent if asked.quiet else terminal.note)[asked.command](asked)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:  # the last boundary
        failure = exception_text.as_error(error)
        if isinstance(failure, Unforeseen):
            failure.remedy = _REMEDY
        return CommandOutput((), None, failure)


def _error(failure: DeployError | None) -> dict[str, str | int] | None:
    if failure is None:
        return None
    return {"problem": str(failure), "remedy": failure.remedy, "exit_code": failure.exit_code}


def _listen() -> None:
    """Shows on stderr what the package logs."""

    class Shown(logging.Handler):
        """Writes a record as one line that no name in it can forge."""

        def emit(self, record: logging.LogRecord) -> None:
            """Writes one record."""
            terminal.note(record.getMessage())

    log = logging.getLogger("deploytool")
    log.setLevel(logging.DEBUG)
    log.handlers = [Shown()]


def _silent(line: str) -> None:
    """Nobody wants to know."""


def _commands(say: Say) -> dict[str, Callable[[argparse.Namespace], CommandOutput]]:
    from deploytool.device import commands  # here begins numpy
    from deploytool.transfer import auth

    return {
        "verify": lambda it: commands.verify(
            it.bundle, root=it.root, digest=it.digest, key=it.key, require=it.require, build=it.build, say=say
        ),
        "build": lambda it: commands.build(it.bundle, key=it.key, say=say),
        "run": lambda it: commands.run(it.bundle, it.images, top=it.top, key=it.key, require=it.require),
        "bench": lambda it: commands.bench(
            it.bundle, seconds=it.seconds, key=it.key, require=it.require, build=it.build, say=say
        ),
        "install": lambda it: commands.install(
            it.bundle, it.root, digest=it.digest, key=it.key, require=it.require, build=it.build, say=say
        ),
        "pull": lambda it: commands.pull(
            it.address,
            it.out,
            target=it.target,
            digest=it.digest,
            key=it.key,
            reuse_from=it.reuse_from,
            plain_http=it.plain_http,
            ca=it.ca,
            timeout=it.timeout,
            logins=auth.config_path(os.environ.get("DOCKER_CONFIG")),
            say=say,
        ),
        "rollback": lambda it: commands.rollback(it.root, key=it.key),
        "pardon": lambda it: commands.pardon(it.digest, it.root),
        "clean": lambda it: commands.clean(it.root, yes=it.yes),
        "doctor": lambda it: commands.doctor(it.target),
    }


class _Parser(argparse.ArgumentParser):
    """Says a wrong use in lines that no argument can forge."""

    def error(self, message: str) -> NoReturn:
        """The usage and what was wrong with it, on stderr."""
        for line in self.format_usage().splitlines():
            terminal.note(line)
        terminal.note(f"{self.prog}: error: {message}")
        sys.exit(2)


def _parser(name: str = "deploytool") -> argparse.ArgumentParser:
    parser = _Parser(
        prog=name,
        description="Verifies, builds, runs and installs a bundle on the device it is for.",
        epilog=_EPILOG,
    )
    added = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, what in COMMANDS.items():
        one = added.add_parser(name, help=what, description=what)
        one.add_argument("--json", action="store_true", help="print one JSON document")
        spoken = one.add_mutually_exclusive_group()
        spoken.add_argument("--quiet", "-q", action="store_true", help="say only the verdict, or what failed")
        spoken.add_argument("--verbose", "-v", action="store_true", help="also say each file and each step")
        if name == "doctor":
            one.add_argument("--target", default="", help="whether an engine for that target can be built here")
            continue
        if name == "clean":
            one.add_argument("root", type=Path, help="where bundles are installed")
            one.add_argument("--yes", action="store_true", help="remove it; without, it is only shown")
            continue
        if name == "pardon":
            one.add_argument("digest", help="the first digits of its digest, as install and verify print it")
            one.add_argument("--root", type=Path, required=True, help="where bundles are installed")
            continue
        if name == "pull":
            _of_pull(one)
        elif name != "rollback":
            place = "a bundle's folder" + (", or an install root" if name == "run" else "")
            one.add_argument("bundle", type=Path, help=place)
        what = "the public key (PEM) that must have signed the bundle"
        one.add_argument("--require-signature", dest="key", type=Path, metavar="KEY", help=what)
        if name not in ("build", "rollback", "pull"):
            one.add_argument("--require", choices=LEAST, help="fail if only something slower works")
        if name in ("verify", "bench", "install"):
            one.add_argument("--build", action="store_true", help="build an engine here first, where one can")
        if name in ("verify", "install", "rollback"):
            one.add_argument("--root", type=Path, required=name != "verify", help="where bundles are installed")
        if name in ("verify", "install", "pull"):
            one.add_argument("--digest", help="the SHA-256 of the manifest one means; any other is refused")
        if name == "run":
            one.add_argument("images", type=Path, nargs="+", help="pictures")
            one.add_argument("--top", type=int, default=5, help="how many classes")
        if name == "bench":
            one.add_argument("--seconds", type=float, default=3.0, help="for each way that works")
    return parser


def _of_pull(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("address", help="oci://host/name:tag, oci-archive:FILE, https://server/folder/, or a folder")
    parser.add_argument("--out", type=Path, help="a new folder")
    parser.add_argument("--target", dest="target", help="leave out the engines for other targets than this one")
    reuse_from = "a bundle or install root here whose files need not come again"
    parser.add_argument("--reuse-from", type=Path, action="append", default=[], help=reuse_from)
    parser.add_argument("--plain-http", action="store_true", help="without encryption, also to other machines")
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="give up if it takes longer")
    parser.add_argument("--ca", type=Path, metavar="FILE", help="certificates (PEM) of who vouches for the server")


if __name__ == "__main__":
    main()
