"""The configuration file: how it is found and checked, and that the command line takes precedence."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from deploytool.cli import config
from deploytool.loading.catalog import find
from tests.conftest import Command

MODEL = "mobilenet_v1_cifar"


def parse_options(stderr: str) -> dict[str, tuple[str, str]]:
    """The options that --verbose prints: value and source by name."""
    matches = re.findall(r"^  ([\w-]+) = (.*) \((.*)\)$", stderr, re.MULTILINE)
    return {name: (value, source) for name, value, source in matches}


def options(deploytool: Command, *arguments: str) -> dict[str, tuple[str, str]]:
    """The options that an export would use; an input without a size stops it."""
    done = deploytool("export", MODEL, "--input", "3xHxW", "--verbose", *arguments)
    assert "no size given for dynamic dimension H" in done.stderr, done.stderr
    return parse_options(done.stderr)


def test_a_file_gives_defaults_and_the_command_line_takes_precedence(deploytool: Command, tmp_path: Path) -> None:
    text = (
        '[export]\ntrt = true\nbatch = "1:4:16"\ntarget = ["rtx40", "orin"]\nmin_speedup = 2\nimages = 5\nio = "fp16"\n'
    )
    (tmp_path / "deploytool.toml").write_text(
        text + 'arg = ["classes=10"]\nout = "runs/one"\nmean = [0.5, 0.25, 1]\nstd = 0.5\n'
    )
    values = options(deploytool, "--batch", "8")
    assert values["batch"] == ("8", "command line")
    assert values["trt"] == ("True", "deploytool.toml")
    assert values["target"] == ("rtx40,orin", "deploytool.toml")
    assert values["min-speedup"] == ("2.0", "deploytool.toml")
    assert values["images"] == ("5", "deploytool.toml")
    assert values["mean"] == ("0.5,0.25,1", "deploytool.toml")
    assert values["std"] == ("0.5", "deploytool.toml")
    assert values["io"] == ("fp16", "deploytool.toml")
    assert values["out"] == ("runs/one", "deploytool.toml")
    assert values["arg"][1] == "deploytool.toml"
    assert "seed" not in values


def test_a_file_in_a_parent_folder_is_found_and_its_paths_are_relative_to_it(
    deploytool: Command, tmp_path: Path
) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.deploytool.export]\nout = "runs"\n')
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    (below / "other.toml").write_text('[export]\nout = "here"\n')
    done = deploytool("export", "nothing", "--verbose")
    assert f"configuration: {Path('pyproject.toml')}" in done.stderr
    (tmp_path / "deploytool.toml").write_text('[export]\nout = "../elsewhere"\n')
    assert options(deploytool)["out"] == (
        "../elsewhere",
        "deploytool.toml",
    )  # before pyproject.toml
    assert options(deploytool, "--config", "a/b/other.toml")["out"] == ("a/b/here", "a/b/other.toml")


def test_an_unrelated_pyproject_is_ignored(deploytool: Command, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("this is [no TOML")
    assert deploytool("models", "--verbose").stderr.splitlines()[0] == "configuration: no file"


@pytest.mark.parametrize(
    ("text", "problem", "remedy"),
    [
        ('[export]\nrewrit = "none"', "[export] has no option rewrit", "did you mean rewrite?"),
        ("[exprot]\n", "[exprot] is not a command", "did you mean export?"),
        ("export = 1", "export is not a table", "write [export]"),
        ('[export]\ntrt = "yes"', "[export] trt = 'yes' is not true or false", "write true or false"),
        ("[export]\nopset = 7", "[export] opset = 7: ", "--help"),
        ("[export]\nopset = 18.5", "[export] opset = 18.5 is not an integer", "write an integer"),
        ("[export]\nopset = true", "[export] opset = True is not an integer", "write an integer"),
        ('[export]\nio = "int8"', "[export] io = 'int8' is not a valid choice", "fp32, fp16"),
        ("[export]\nsize = {H = 3, W = 4}", "[export] size = {'H': 3, 'W': 4} is a table", 'write ["H=3", "W=4"]'),
        ('[export.arg]\nhead = "wide"', "[export] arg = {'head': 'wide'} is a table", 'write ["head=wide"]'),
        ("[export]\ntarget = {}", "[export] target = {} is a table", "write a list of strings"),
        ("[export]\nout = 3", "[export] out = 3 is not a path", "write a path"),
        ('[export]\nout = "a\\u0000b"', "[export] out = 'a\\x00b': embedded null byte", "--help"),
        ("[export\n", "is not valid TOML", "correct that line"),
    ],
)
def test_an_invalid_entry_is_reported_in_one_line(
    deploytool: Command, tmp_path: Path, text: str, problem: str, remedy: str
) -> None:
    (tmp_path / "team.toml").write_text(text)
    done = deploytool("export", MODEL, "--config", "team.toml", "--json")
    assert done.returncode == 2
    error = json.loads(done.stdout)["error"]
    assert error["problem"].startswith("team.toml")
    assert problem in error["problem"]
    assert remedy in error["remedy"]
    assert len(done.stderr.splitlines()) == 2


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (b"[tool]\ndeploytool = 3\n", "tool.deploytool is not a table"),
        (b"[tool]\n# \xff\n", "is not valid TOML"),
        (b"[tool]\nx = " + b"[" * 5000 + b"]" * 5000, "is nested too deeply"),
        (b"# tool.deploytool\ntool = 3\n", None),
    ],
)
def test_an_odd_pyproject_is_reported_or_ignored(
    deploytool: Command, tmp_path: Path, raw: bytes, problem: str | None
) -> None:
    (tmp_path / "pyproject.toml").write_bytes(raw)
    done = deploytool("models", "--quiet")
    assert done.returncode == (2 if problem else 0)
    assert (problem or "") in done.stderr
    assert "Traceback" not in done.stderr


def test_only_the_table_of_the_command_is_checked_for_options(deploytool: Command, tmp_path: Path) -> None:
    (tmp_path / "deploytool.toml").write_text('[models]\nquiet = true\n[train]\ndata = "pictures"\nflip = false\n')
    assert deploytool("models").stdout == f"{len(json.loads(deploytool('models', '--json').stdout)['models'])} models\n"
    done = deploytool("train", find("mobilenet_v1_025").name, "--verbose")
    assert parse_options(done.stderr)["flip"] == ("False", "deploytool.toml")
    assert "there is no folder pictures" in done.stderr


UNSAFE = {
    "export": ("trust-code = true",),
    "push": ("plain-http = true", 'ca = "own.pem"'),
    "pull": ("plain-http = true", 'require-signature = "own.pem"'),
    "ship": ('python = "/tmp/python"', 'identity = "key"', 'ssh-config = "config"'),
    "sign": ('key = "own.pem"',),
    "verify": ('require-signature = "own.pem"',),
}


@pytest.mark.parametrize(("command", "line"), [(command, line) for command, lines in UNSAFE.items() for line in lines])
def test_unsafe_options_are_refused_from_a_file_that_was_not_named(
    deploytool: Command, tmp_path: Path, command: str, line: str
) -> None:
    (tmp_path / "deploytool.toml").write_text(f"[{command}]\n{line}\n")
    words = {"export": [MODEL], "push": ["x", "y"], "ship": ["x", "a@b:/c"]}.get(command, ["x"])
    done = deploytool(command, *words)
    assert done.returncode == 2
    assert "lowers safety, and the file was not given with --config" in done.stderr
    assert len(done.stderr.splitlines()) == 2


def test_unsafe_options_are_accepted_from_a_named_file(deploytool: Command, tmp_path: Path) -> None:
    (tmp_path / "team.toml").write_text("[export]\ntrust-code = true\n")
    done = deploytool("export", MODEL, "--input", "3xHxW", "--verbose", "--config", "team.toml")
    assert parse_options(done.stderr)["trust-code"] == ("True", "team.toml")


def test_a_file_that_everybody_may_write_is_ignored(deploytool: Command, tmp_path: Path) -> None:
    (tmp_path / "deploytool.toml").write_text("[models]\nquiet = true\n")
    assert "options from deploytool.toml" not in deploytool("models").stderr  # quiet suppresses the line
    (tmp_path / "deploytool.toml").write_text("[models]\nverbose = true\n")
    assert "options from deploytool.toml" in deploytool("models").stderr
    (tmp_path / "deploytool.toml").chmod(0o666)
    assert deploytool("models", "--verbose").stderr.splitlines()[0] == "configuration: no file"


def test_a_file_of_another_user_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deploytool.toml"
    path.touch(mode=0o644)
    assert config._is_ours(path)
    if os.geteuid() == 0:
        os.chown(path, 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert not config._is_ours(path)


@pytest.mark.parametrize("word", ["models", "precisions", "exporters", "targets", "batches"])
def test_a_word_of_a_sweep_without_a_name_is_refused(command_line: Command, tmp_path: Path, word: str) -> None:
    words = {"models": '"mixnet_s"', word: '["", " "]'}
    (tmp_path / "t.toml").write_text("[sweep]\n" + "".join(f"{name} = {value}\n" for name, value in words.items()))
    done = command_line("sweep", "--config", "t.toml")
    assert (done.returncode, f"--{word}" in done.stderr, "contains no name" in done.stderr) == (2, True, True)
