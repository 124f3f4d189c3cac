"""What a terminal gets: nothing that it obeys or hides, in the letters that it has, and no error."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from deploytool.host import terminal
from tests.conftest import ROOT

SAYS = "from deploytool.host import terminal; terminal.replace_streams(); "


def ran(program: str, **more: str) -> subprocess.CompletedProcess[str]:
    settings = {**os.environ, "PYTHONPATH": str(ROOT), **more}
    return subprocess.run(
        [sys.executable, "-c", SAYS + program], env=settings, capture_output=True, text=True, check=False
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
def test_what_a_terminal_would_obey_or_hide_is_written_out(text: str, shown: str) -> None:
    assert terminal.visible(text) == shown
    assert terminal.visible(shown) == shown


def test_a_document_says_the_same_and_nothing_else() -> None:
    value = {"na\x7fme": ["\x1b[2J\n\u202e\x9b", "ü \U0001f600 \U000e0041", "\ud800 \udcff"], "n": 1.5}
    for ascii_only in (True, False):
        document = terminal.json_document(value, ascii_only=ascii_only)
        assert json.loads(document) == value
        assert all(line == terminal.visible(line) for line in document.split("\n"))
        assert document.isascii() == ascii_only
    assert terminal.json_document({"a": "ü"}) == '{\n  "a": "ü"\n}\n'


def test_a_terminal_that_lacks_letters_gets_others() -> None:
    done = ran("terminal.print_stdout('a → b – c × ü …')", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stdout, done.stderr) == (0, "a -> b - c x \\xfc ...\n", "")
    done = ran("terminal.print_json({'a': 'ü → \\udcff'})", PYTHONIOENCODING="latin-1")
    assert json.loads(done.stdout) == {"a": "ü → \udcff"}


def test_what_cannot_be_written_is_said_once_and_is_a_failure() -> None:
    program = (
        f"{SAYS} [terminal.print_stdout('x' * 10000) for _ in range(9)]; raise SystemExit(terminal.final_exit_code(0))"
    )
    command = [sys.executable, "-c", program]
    with open("/dev/full", "w") as full:  # noqa: PTH123  # no file
        done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 120
    assert done.stderr == "deploytool: stdout could not be written: No space left on device\n"


def test_a_reader_that_leaves_is_no_news() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    program = f"{SAYS} terminal.print_stdout('x'); raise SystemExit(terminal.final_exit_code(3))"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (3, "")


def test_a_slow_reader_that_made_it_non_blocking_gets_all() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    program = (
        f"{SAYS} [terminal.print_stdout('x' * 999) for _ in range(1000)]; raise SystemExit(terminal.final_exit_code(0))"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, cwd=ROOT, stdout=writing) as process, os.fdopen(reading, "rb") as pipe:
        os.close(writing)
        assert len(pipe.read()) == 1_000_000
        assert process.wait() == 0


def test_no_file_of_ours_gets_the_number_of_a_closed_stream() -> None:
    program = f"{SAYS} import os; print(os.open('/dev/zero', os.O_RDONLY), file=open('/dev/stderr', 'w'))"
    script = f'"{sys.executable}" -c "{program}" <&- >&-'
    done = subprocess.run(script, shell=True, cwd=ROOT, stderr=subprocess.PIPE, text=True, check=False)
    assert int(done.stderr) > 2


def test_a_stream_of_a_callers_own_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    was = sys.stdout
    terminal.replace_streams()
    assert sys.stdout is was
    terminal.print_stdout("\x1b")
    assert capsys.readouterr().out == "\\x1b\n"
