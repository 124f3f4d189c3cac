"""Output on a terminal: no line is wider, nothing is cut off, and colours follow NO_COLOR."""

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


def run_on_terminal(folder: Path, columns: int, *arguments: str, **more: str) -> str:
    """The output of a command on a terminal with this number of columns."""
    parent_end, child_end = pty.openpty()
    settings = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": str(columns), "TERM": "xterm", **more}
    settings = {name: value for name, value in settings.items() if value}
    command = [sys.executable, "-m", "deploytool", *arguments]
    with subprocess.Popen(
        command, cwd=folder, env=settings, stdin=child_end, stdout=child_end, stderr=child_end
    ) as process:
        os.close(child_end)
        output = b""
        while True:
            try:
                block = os.read(parent_end, 65536)
            except OSError:  # on Linux, the other end is closed
                break
            output += block
        process.wait()
    os.close(parent_end)
    return output.decode().replace("\r\n", "\n")


def width(line: str) -> int:
    """The columns of a line on a terminal."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in CONTROL.sub("", line).rstrip())


def words(text: str) -> set[str]:
    """The words of a text without control sequences."""
    return {word.strip(";:") for word in CONTROL.sub("", text).split()} - {"", "–"}


@pytest.mark.parametrize("columns", WIDTHS)
@pytest.mark.parametrize("arguments", [("models",), ("targets",), ("show", "run"), ("show", "run/fp16/model.onnx")])
def test_no_line_is_wider_than_the_terminal_and_no_word_is_missing(
    columns: int, arguments: tuple[str, ...], run_copy: Path, tmp_path: Path, deploytool: Command
) -> None:
    run_copy.rename(tmp_path / "run")
    output = run_on_terminal(tmp_path, columns, *arguments)
    for line in output.splitlines():
        assert width(line) <= columns or " " not in line.strip(), line  # a path is not broken
    piped = {word for word in words(deploytool(*arguments, COLUMNS="1000").stdout) if not set(word) <= set("─")}
    if "model.onnx" not in arguments[-1]:  # there, values longer than the terminal are folded
        assert piped - {"name", "target", "artifact", "JetPack"} <= words(output)  # except names of first columns


def test_a_table_wider_than_the_terminal_becomes_paragraphs() -> None:
    console = Console(width=60, file=io.StringIO(), force_terminal=True, color_system=None)
    rows = [("torchscript/model.pt", "11.87 ms", "0.94–1.84: no significant difference")]
    cli_console.table(console, "", ("artifact" * 5, ">latency", "speed-up (95 % interval)"), rows)
    output = console.file.getvalue()  # type: ignore[attr-defined]  # the StringIO above
    assert "latency: 11.87 ms" in output
    assert {"0.94–1.84:", "difference"} <= set(output.split())
    assert all(width(line) <= 60 for line in output.splitlines())


def test_a_pipe_has_no_width_limit(deploytool: Command) -> None:
    env = {name: value for name, value in os.environ.items() if name != "COLUMNS"} | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "deploytool", "targets"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    (row,) = [line for line in done.stdout.splitlines() if line.startswith(" orin")]
    assert row.rstrip().endswith("TensorRT builds only on the target GPU")


def test_colours_are_printed_on_a_terminal_unless_no_color_is_set(tmp_path: Path, deploytool: Command) -> None:
    coloured = run_on_terminal(tmp_path, 80, "export", "nothing", NO_COLOR="")
    assert COLOUR.search(coloured)
    plain = run_on_terminal(tmp_path, 80, "export", "nothing", NO_COLOR="1")
    assert CONTROL.sub("", coloured) == CONTROL.sub("", plain)
    assert not COLOUR.search(plain)
    assert "\x1b" not in deploytool("export", "nothing").stderr
    assert "\x1b" not in deploytool("models").stdout


def test_an_error_is_wrapped_between_words(tmp_path: Path) -> None:
    error = CONTROL.sub(
        "", run_on_terminal(tmp_path, 60, "export", "mixnet_s", "--batch", "a-size-that-is-none-at-all")
    )
    assert error == (
        "deploytool: --batch a-size-that-is-none-at-all is not a size\n  → write --batch 8, or --batch 1:8:32\n"
    )
    longer = CONTROL.sub("", run_on_terminal(tmp_path, 40, "export", "mixnet_s", "--keep-fp32", "auto,stage2.0"))
    assert longer.splitlines()[0] == "deploytool: --keep-fp32 auto,stage2.0:"
