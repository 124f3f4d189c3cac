"""Output to a terminal: escaped characters, replaced characters, and failed writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from deploytool.host import terminal
from tests.conftest import ROOT

SETUP = "from deploytool.host import terminal; terminal.replace_streams(); "


def run(program: str, **more: str) -> subprocess.CompletedProcess[str]:
    settings = {**os.environ, "PYTHONPATH": str(ROOT), **more}
    return subprocess.run(
        [sys.executable, "-c", SETUP + program], env=settings, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Größe 3 × 4 → 日本\u3000語 é \U0001f600", "Größe 3 × 4 → 日本\u3000語 é \U0001f600"),
        ("a\x1b[31mb\r\n\tc", r"a\x1b[31mb\r\n\tc"),
        ("\x00\x07\x7f\x85\x9b", r"\x00\x07\x7f\x85\x9b"),
        ("a\u202eb\u2066c\u200bd\u2028e\u2029f\ufeffg\u00adh", r"a\u202eb\u2066c\u200bd\u2028e\u2029f\ufeffg\xadh"),
        ("byte \udcff, tag \U000e0041, none \U000e0fff", r"byte \udcff, tag \U000e0041, none \U000e0fff"),
        (r"C:\new", r"C:\new"),
    ],
)
def test_control_and_invisible_characters_are_escaped(text: str, shown: str) -> None:
    assert terminal.visible(text) == shown
    assert terminal.visible(shown) == shown


def test_a_document_is_visible_and_decodes_to_the_same_value() -> None:
    value = {"na\x7fme": ["\x1b[2J\n\u202e\x9b", "ü \U0001f600 \U000e0041", "\ud800 \udcff"], "n": 1.5}
    for ascii_only in (True, False):
        document = terminal.json_document(value, ascii_only=ascii_only)
        assert json.loads(document) == value
        assert all(line == terminal.visible(line) for line in document.split("\n"))
        assert document.isascii() == ascii_only
    assert terminal.json_document({"a": "ü"}) == '{\n  "a": "ü"\n}\n'


def test_characters_that_the_encoding_lacks_are_replaced() -> None:
    finished = run("terminal.print_stdout('a → b – c × ü …')", PYTHONIOENCODING="ascii")
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, "a -> b - c x \\xfc ...\n", "")
    finished = run("terminal.print_json({'a': 'ü → \\udcff'})", PYTHONIOENCODING="latin-1")
    assert json.loads(finished.stdout) == {"a": "ü → \udcff"}


def test_a_failed_write_is_reported_once_and_changes_the_exit_code() -> None:
    program = (
        f"{SETUP} [terminal.print_stdout('x' * 10000) for _ in range(9)]; raise SystemExit(terminal.final_exit_code(0))"
    )
    command = [sys.executable, "-c", program]
    with open("/dev/full", "w") as full:  # noqa: PTH123  # a device
        finished = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert finished.returncode == 120
    assert finished.stderr == "deploytool: stdout could not be written: No space left on device\n"


def test_a_closed_pipe_is_not_reported() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    program = f"{SETUP} terminal.print_stdout('x'); raise SystemExit(terminal.final_exit_code(3))"
    command = [sys.executable, "-c", program]
    finished = subprocess.run(command, cwd=ROOT, stdout=write_end, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write_end)
    assert (finished.returncode, finished.stderr) == (3, "")


def test_a_slow_reader_of_a_non_blocking_pipe_gets_everything() -> None:
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    print_lines = "[terminal.print_stdout('x' * 999) for _ in range(1000)]"
    program = f"{SETUP} {print_lines}; raise SystemExit(terminal.final_exit_code(0))"
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, cwd=ROOT, stdout=write_end) as process, os.fdopen(read_end, "rb") as pipe:
        os.close(write_end)
        assert len(pipe.read()) == 1_000_000
        assert process.wait() == 0


def test_no_file_gets_the_descriptor_of_a_closed_stream() -> None:
    program = f"{SETUP} import os; print(os.open('/dev/zero', os.O_RDONLY), file=open('/dev/stderr', 'w'))"
    script = f'"{sys.executable}" -c "{program}" <&- >&-'
    finished = subprocess.run(script, shell=True, cwd=ROOT, stderr=subprocess.PIPE, text=True, check=False)
    assert int(finished.stderr) > 2


def test_a_stream_that_a_caller_replaced_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    original = sys.stdout
    terminal.replace_streams()
    assert sys.stdout is original
    terminal.print_stdout("\x1b")
    assert capsys.readouterr().out == "\\x1b\n"
