"""The configuration file: found, checked, named, and overruled by the command line."""

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


def given(said: str) -> dict[str, tuple[str, str]]:
    """The options that --verbose names, each with its value and where it is from."""
    found = re.findall(r"^  ([\w-]+) = (.*) \((.*)\)$", said, re.MULTILINE)
    return {name: (value, source) for name, value, source in found}


def options(deploytool: Command, *arguments: str) -> dict[str, tuple[str, str]]:
    """What an export would do; it is stopped by an input that has no size."""
    done = deploytool("export", MODEL, "--input", "3xHxW", "--verbose", *arguments)
    assert "nobody says how large H is" in done.stderr, done.stderr
    return given(done.stderr)


def test_a_file_gives_defaults_and_the_command_line_wins(deploytool: Command, tmp_path: Path) -> None:
    text = (
        '[export]\ntrt = true\nbatch = "1:4:16"\ntarget = ["rtx40", "orin"]\nmin_speedup = 2\nimages = 5\nio = "fp16"\n'
    )
    (tmp_path / "deploytool.toml").write_text(
        text + 'arg = ["classes=10"]\nout = "runs/one"\nmean = [0.5, 0.25, 1]\nstd = 0.5\n'
    )
    found = options(deploytool, "--batch", "8")
    assert found["batch"] == ("8", "command line")
    assert found["trt"] == ("True", "deploytool.toml")
    assert found["target"] == ("rtx40,orin", "deploytool.toml")
    assert found["min-speedup"] == ("2.0", "deploytool.toml")
    assert found["images"] == ("5", "deploytool.toml")
    assert found["mean"] == ("0.5,0.25,1", "deploytool.toml")
    assert found["std"] == ("0.5", "deploytool.toml")
    assert found["io"] == ("fp16", "deploytool.toml")
    assert found["out"] == ("runs/one", "deploytool.toml")
    assert found["arg"][1] == "deploytool.toml"
    assert "seed" not in found


def test_it_is_found_above_and_its_paths_are_its_own(deploytool: Command, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.deploytool.export]\nout = "runs"\n')
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    (below / "other.toml").write_text('[export]\nout = "here"\n')
    done = deploytool("export", "nothing", "--verbose")
    assert f"configuration: {Path('pyproject.toml')}" in done.stderr
    (tmp_path / "deploytool.toml").write_text('[export]\nout = "../elsewhere"\n')
    assert options(deploytool)["out"] == ("../elsewhere", "deploytool.toml")  # our own file comes first
    assert options(deploytool, "--config", "a/b/other.toml")["out"] == ("a/b/here", "a/b/other.toml")


def test_a_project_of_somebody_else_is_left_alone(deploytool: Command, tmp_path: Path) -> None:
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
        ("[export]\nout = 3", "[export] out = 3 is not a path", "write a path"),
        ("[export\n", "is not valid TOML", "correct that line"),
    ],
)
def test_what_makes_no_sense_gets_one_clear_line(
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
def test_a_shared_file_that_is_odd(deploytool: Command, tmp_path: Path, raw: bytes, problem: str | None) -> None:
    (tmp_path / "pyproject.toml").write_bytes(raw)
    done = deploytool("models", "--quiet")
    assert done.returncode == (2 if problem else 0)
    assert (problem or "") in done.stderr
    assert "Traceback" not in done.stderr


def test_a_table_of_another_command_is_checked_by_that_one(deploytool: Command, tmp_path: Path) -> None:
    (tmp_path / "deploytool.toml").write_text('[models]\nquiet = true\n[train]\ndata = "pictures"\nflip = false\n')
    assert deploytool("models").stdout == f"{len(json.loads(deploytool('models', '--json').stdout)['models'])} models\n"
    done = deploytool("train", find("mobilenet_v1_025").name, "--verbose")
    assert given(done.stderr)["flip"] == ("False", "deploytool.toml")
    assert "there is no folder pictures" in done.stderr


SAFETY = {
    "export": ("trust-code = true",),
    "push": ("plain-http = true", 'ca = "own.pem"'),
    "pull": ("plain-http = true", 'require-signature = "own.pem"'),
    "ship": ('python = "/tmp/python"', 'identity = "key"', 'ssh-config = "config"'),
    "sign": ('key = "own.pem"',),
    "verify": ('require-signature = "own.pem"',),
}


@pytest.mark.parametrize(("command", "line"), [(command, line) for command, lines in SAFETY.items() for line in lines])
def test_what_lowers_safety_is_not_taken_from_a_file_that_was_only_found(
    deploytool: Command, tmp_path: Path, command: str, line: str
) -> None:
    (tmp_path / "deploytool.toml").write_text(f"[{command}]\n{line}\n")
    words = {"export": [MODEL], "push": ["x", "y"], "ship": ["x", "a@b:/c"]}.get(command, ["x"])
    done = deploytool(command, *words)
    assert done.returncode == 2
    assert "lowers safety, and the file was not given with --config" in done.stderr
    assert len(done.stderr.splitlines()) == 2


def test_what_lowers_safety_is_taken_from_a_file_that_one_names(deploytool: Command, tmp_path: Path) -> None:
    (tmp_path / "team.toml").write_text("[export]\ntrust-code = true\n")
    done = deploytool("export", MODEL, "--input", "3xHxW", "--verbose", "--config", "team.toml")
    assert given(done.stderr)["trust-code"] == ("True", "team.toml")


def test_a_file_that_anybody_may_write_is_left_alone(deploytool: Command, tmp_path: Path) -> None:
    (tmp_path / "deploytool.toml").write_text("[models]\nquiet = true\n")
    assert "options from deploytool.toml" not in deploytool("models").stderr  # quiet says nothing
    (tmp_path / "deploytool.toml").write_text("[models]\nverbose = true\n")
    assert "options from deploytool.toml" in deploytool("models").stderr
    (tmp_path / "deploytool.toml").chmod(0o666)
    assert deploytool("models", "--verbose").stderr.splitlines()[0] == "configuration: no file"


def test_a_file_of_somebody_else_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deploytool.toml"
    path.touch(mode=0o644)
    assert config._is_ours(path)
    if os.geteuid() == 0:
        os.chown(path, 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert not config._is_ours(path)
