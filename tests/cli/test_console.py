"""Nothing is wider than the terminal, nothing is cut off, and colours are only where they are wanted."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from rich.console import Console

from deploytool.cli import console as cli_console
from tests.conftest import ROOT, Command

WIDTHS = (60, 80, 120)
COLOUR = re.compile(r"\x1b\[[\d;]*3[0-7][\d;]*m")
CONTROL = re.compile(r"\x1b\[[\d;?]*[A-Za-z]")


def on_a_terminal(folder: Path, columns: int, *arguments: str, **more: str) -> str:
    """What a command writes to a terminal of so many columns."""
    ours, theirs = pty.openpty()
    settings = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": str(columns), "TERM": "xterm", **more}
    settings = {name: value for name, value in settings.items() if value}
    command = [sys.executable, "-m", "deploytool", *arguments]
    with subprocess.Popen(command, cwd=folder, env=settings, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        said = b""
        while True:
            try:
                block = os.read(ours, 65536)
            except OSError:  # how Linux says that nobody holds the other end
                break
            said += block
        process.wait()
    os.close(ours)
    return said.decode().replace("\r\n", "\n")


def wide(line: str) -> int:
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in CONTROL.sub("", line).rstrip())


def words(text: str) -> set[str]:
    return {word.strip(";:") for word in CONTROL.sub("", text).split()} - {"", "–"}


@pytest.mark.parametrize("columns", WIDTHS)
@pytest.mark.parametrize("arguments", [("models",), ("targets",), ("show", "run"), ("show", "run/fp16/model.onnx")])
def test_no_line_is_wider_than_the_terminal_and_no_word_is_lost(
    columns: int, arguments: tuple[str, ...], run_copy: Path, tmp_path: Path, deploytool: Command
) -> None:
    run_copy.rename(tmp_path / "run")
    said = on_a_terminal(tmp_path, columns, *arguments)
    for line in said.splitlines():
        assert wide(line) <= columns or " " not in line.strip(), line  # a path stays whole
    piped = {word for word in words(deploytool(*arguments, COLUMNS="1000").stdout) if not set(word) <= set("─")}
    if "model.onnx" not in arguments[-1]:  # where values longer than any terminal are folded
        assert piped - {"name", "target", "artifact"} <= words(said)  # what heads the first column


def test_a_cell_that_is_wider_than_the_terminal_is_broken_and_no_other() -> None:
    console = Console(width=60, file=io.StringIO(), force_terminal=True, color_system=None)
    rows = [("torchscript/model.pt", "11.87 ms", "0.94–1.84: no significant difference")]
    cli_console.table(console, "", ("artifact" * 5, ">latency", "speed-up (95 % interval)"), rows)
    said = console.file.getvalue()  # type: ignore[attr-defined]  # it is the text above
    assert "latency: 11.87 ms" in said
    assert {"0.94–1.84:", "difference"} <= set(said.split())
    assert all(wide(line) <= 60 for line in said.splitlines())


def test_a_pipe_is_as_wide_as_it_needs(deploytool: Command) -> None:
    env = {name: value for name, value in os.environ.items() if name != "COLUMNS"} | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "deploytool", "targets"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    (row,) = [line for line in done.stdout.splitlines() if line.startswith(" orin")]
    assert row.rstrip().endswith("TensorRT builds only on the GPU it serves")


def test_colours_are_for_terminals_and_not_where_nobody_wants_them(tmp_path: Path, deploytool: Command) -> None:
    coloured = on_a_terminal(tmp_path, 80, "export", "nothing", NO_COLOR="")
    assert COLOUR.search(coloured)
    plain = on_a_terminal(tmp_path, 80, "export", "nothing", NO_COLOR="1")
    assert CONTROL.sub("", coloured) == CONTROL.sub("", plain)
    assert not COLOUR.search(plain)
    assert "\x1b" not in deploytool("export", "nothing").stderr
    assert "\x1b" not in deploytool("models").stdout


def test_a_failure_is_broken_between_words(tmp_path: Path) -> None:
    said = CONTROL.sub("", on_a_terminal(tmp_path, 60, "export", "mixnet_s", "--batch", "a-size-that-is-none-at-all"))
    assert said == (
        "deploytool: --batch a-size-that-is-none-at-all is no size\n  → write --batch 8, or --batch 1:8:32\n"
    )
    longer = CONTROL.sub("", on_a_terminal(tmp_path, 40, "export", "mixnet_s", "--keep-fp32", "auto,stage2.0"))
    assert longer.splitlines()[0] == "deploytool: --keep-fp32 auto,stage2.0"
