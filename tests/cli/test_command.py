"""The shared options, JSON documents, help texts and exit codes of every command."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from deploytool.cli.app import app
from tests.conftest import Command

GROUP: Any = typer.main.get_command(app)
COMMANDS = {name: GROUP.get_command(None, name) for name in GROUP.list_commands(None)}
CASES: dict[str, tuple[int, str]] = {  # exit code and arguments; RUN and BUNDLE are of a finished run
    "export": (2, "shuflenet_g3"),
    "sweep": (2, "--models shuflenet_g3"),
    "models": (0, ""),
    "targets": (0, ""),
    "show": (0, "RUN"),
    "report": (0, "RUN"),
    "train": (2, "mobilenet_v1_025 --data nowhere"),
    "faults": (0, "RUN --faults 1"),
    "blame": (0, "RUN"),
    "diff": (0, "RUN RUN"),
    "doctor": (0, ""),
    "pack": (0, "RUN --out packed"),
    "sign": (2, "BUNDLE --key nowhere.pem"),
    "verify": (0, "BUNDLE"),
    "build": (5, "BUNDLE"),
    "run": (0, "BUNDLE BUNDLE/golden/case_0.png"),
    "bench": (0, "BUNDLE --seconds 0.1"),
    "install": (0, "BUNDLE --root root"),
    "push": (0, "BUNDLE oci-archive:tiny.tar"),
    "pull": (0, "BUNDLE --out pulled"),
    "ship": (9, "BUNDLE nobody@127.0.0.1:/root --port 1"),
    "fleet": (2, "status"),
    "status": (0, "--root root"),
    "rollback": (2, "--root nowhere"),
    "pardon": (2, "0123456789ab --root nowhere"),
    "clean": (0, "RUN"),
}


def arguments_of(name: str, run: Path, bundle: Path) -> list[str]:
    words = CASES[name][1].replace("BUNDLE", str(bundle)).replace("RUN", str(run))
    return [name, *shlex.split(words)]


def test_every_command_has_a_case() -> None:
    assert set(CASES) == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_json_prints_one_document_also_on_errors(name: str, deploytool: Command, run_copy: Path, packed: Path) -> None:
    done = deploytool(*arguments_of(name, run_copy, packed), "--json")
    assert done.returncode == CASES[name][0], done.stderr
    document = json.loads(done.stdout)
    assert isinstance(document, dict)
    if done.returncode:
        assert document["error"]["exit_code"] == done.returncode
        assert f"deploytool: {document['error']['problem']}" in done.stderr
        assert f"  → {document['error']['remedy']}" in done.stderr
    else:
        assert document["error"] is None
        assert len(document) > 1


@pytest.mark.parametrize(
    "name", [name for name in COMMANDS if name not in ("faults", "blame", "train")]
)  # slow, and not different
def test_quiet_prints_only_the_verdict_or_the_error(
    name: str, deploytool: Command, run_copy: Path, packed: Path
) -> None:
    done = deploytool(*arguments_of(name, run_copy, packed), "--quiet")
    assert done.returncode == CASES[name][0], done.stderr
    if done.returncode:
        assert done.stdout == ""
        assert [line[:4] for line in done.stderr.splitlines()] == ["depl", "  → "]
    else:
        assert len(done.stdout.splitlines()) == 1
        assert done.stdout.strip()
        assert done.stderr == ""


@pytest.mark.parametrize("position", ["before", "after"])
def test_shared_options_may_stand_before_or_after_the_command(position: str, deploytool: Command) -> None:
    quiet = deploytool(*(("-q", "models") if position == "before" else ("models", "-q")))
    assert quiet.stdout.endswith(" models\n")
    document = deploytool(*(("--json", "targets") if position == "before" else ("targets", "--json")))
    assert json.loads(document.stdout)["error"] is None
    verbose = deploytool(*(("-v", "models") if position == "before" else ("models", "-v")))
    assert verbose.stderr.splitlines()[0] == "configuration: no file"
    assert re.search(r"^took \d+\.\d\d s$", verbose.stderr, re.MULTILINE)


def test_quiet_and_verbose_are_mutually_exclusive(deploytool: Command) -> None:
    done = deploytool("models", "--quiet", "--verbose")
    assert done.returncode == 2
    assert "--quiet and --verbose are mutually exclusive" in done.stderr


@pytest.mark.parametrize("arguments", [("nothing",), ("models", "--nothing"), ("export",), ("train", "x")])
def test_a_usage_error_is_a_json_document_too(arguments: tuple[str, ...], deploytool: Command) -> None:
    done = deploytool(*arguments, "--json")
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["exit_code"] == 2
    assert "Usage: " in done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_texts_of_every_command_are_sentences(name: str) -> None:
    helps = {param.opts[0]: param.help for param in COMMANDS[name].params}
    shared = {
        "--quiet": "Print only the verdict, or the error.",
        "--verbose": "Also print decisions and the output of tools.",
        "--json": "Print one JSON document on stdout.",
        "--config": "File with defaults for options: deploytool.toml, or pyproject.toml with [tool.deploytool].",
    }
    assert {option: helps.get(option) for option in shared} == shared
    for text in helps.values():
        assert text.endswith(".")
        assert text[0].isupper() or text.startswith(("fp16", "oci:"))
    assert COMMANDS[name].help[0].isupper()
    assert "Exit codes: " in CliRunner().invoke(app, [name, "--help"]).stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_the_same_option_has_the_same_metavar_everywhere(name: str) -> None:
    known = {
        **dict.fromkeys(("--out", "--root", "--reuse-from"), "DIR"),
        **dict.fromkeys(("--weights", "--cases", "--key", "--require-signature", "--config", "--identity"), "FILE"),
        **{
            "--arg": "NAME=VALUE",
            "--data": "DIR|FILE" if name == "export" else "DIR",
            "--digest": "SHA-256",
            "--target": "TARGET",
        },
    }
    metavars = {
        opt: param.metavar.removesuffix(",…") for param in COMMANDS[name].params for opt in param.opts if opt in known
    }
    assert metavars == {opt: known[opt] for opt in metavars}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_examples_in_the_help_are_valid_commands(name: str) -> None:
    line = re.search(r"^Examples?: (.*)$", COMMANDS[name].help, re.MULTILINE)
    assert line is not None
    for example in line[1].split(" · "):
        program, command, *arguments = shlex.split(example)
        assert (program, command) == ("deploytool", name)
        with COMMANDS[name].make_context(command, arguments):  # raises for an unknown option
            pass
