"""The README tells the truth: its commands run, its tables are those of the code."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from deploytool import errors
from deploytool.measure import parity
from deploytool.report import COARSEST
from tests.conftest import ROOT, Command

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
LINES = [line.partition("#")[0].strip() for block in BLOCKS for line in block.splitlines()]


def back_door(folder: Path, arguments: list[str]) -> None:
    command, settings = [sys.executable, "-m", "deploytool.device", *arguments], {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_command_runs(deploytool: Command, tmp_path: Path) -> None:
    commands = [line for line in LINES if line.startswith(("deploytool ", "python -m deploytool.device "))]
    assert len(commands) >= 14
    for command in commands:
        arguments = shlex.split(command.removeprefix("python -m "))
        if arguments[0] == "deploytool.device":
            back_door(tmp_path, arguments[1:])
            continue
        arguments = arguments[1:]
        if arguments[0] in ("export", "bench"):
            arguments += ["--seconds", "0.1"]
        done = deploytool(*arguments)
        assert done.returncode == 0, f"{command}\n{done.stderr}"


def test_every_line_of_a_block_is_a_command_that_some_test_runs() -> None:
    known = ("deploytool ", "make ", "python -m deploytool.device ")
    assert not [line for line in LINES if line and not line.startswith(known)]


def test_the_python_example_runs(tmp_path: Path) -> None:
    (example,) = [
        block for block in re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE) if ".export(" in block
    ]
    assert len([line for line in example.splitlines() if line]) <= 4
    settings = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", example], cwd=tmp_path, env=settings, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    onnx, fp16, engine, margin = done.stdout.split()
    assert all((tmp_path / path).is_file() for path in (onnx, fp16, engine))
    assert float(margin) > 0


def test_the_configuration_example_is_understood(deploytool: Command, tmp_path: Path) -> None:
    (example,) = re.findall(r"^```toml\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    (tmp_path / "deploytool.toml").write_text(example)
    for command, refused in (("export", "there is no model 'nothing'"), ("verify", "cannot be read")):
        done = deploytool(command, "nothing", "--verbose")
        assert refused in done.stderr
        assert "(deploytool.toml)" in done.stderr


def test_contributing_names_what_is_there() -> None:
    text = (ROOT / ".github" / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for path in re.findall(r"`((?:deploytool|tests|models)/[\w/]+\.py)`", text):
        assert (ROOT / path).is_file(), path
    assert "(.github/CONTRIBUTING.md)" in README


def test_every_make_target_is_there() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    prose = re.sub(r"^```.*?^```", "", README, flags=re.DOTALL | re.MULTILINE)
    named = {words[1] for words in re.findall(r"`(make ([a-z-]+))`", prose)} | {
        line.split()[1] for line in LINES if line.startswith("make ")
    }
    assert {"demo", "test", "lint", "test-all", "bench"} <= named
    assert named <= set(targets)


def test_every_exit_code_is_listed_in_readme_and_help(deploytool: Command) -> None:
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", README, re.MULTILINE)}
    known = {kind.exit_code for kind in errors.DeployError.__subclasses__()}
    assert listed == known | {0, 130}
    said = re.search(r"Exit codes:(.*)", deploytool("--help").stdout, re.DOTALL)
    assert said is not None
    assert {int(code) for code in re.findall(r"\b(\d+)\s+[a-z]", said[1])} == listed


def test_the_tolerances_are_those_of_the_code() -> None:
    for name, room in (("FP32", parity.ROOM32), ("FP16", parity.ROOM16)):
        row = next(line for line in README.splitlines() if line.startswith(f"| {name} ("))
        _, _, error, rms, top1, _ = (cell.strip() for cell in row.split("|"))
        assert (float(error.removesuffix("×")), float(rms.removesuffix("×"))) == (room.max_error, room.rms)
        assert top1 == "all"
    assert f"{COARSEST:.0%}" in README


def test_every_path_is_there() -> None:
    for path in re.findall(r"`((?:deploytool|models|tests)/[\w/.]+\.py)`", README):
        assert (ROOT / path).is_file(), path
    assert (ROOT / "artifacts").is_dir()
    assert Path(ROOT / "constraints.txt").is_file()
