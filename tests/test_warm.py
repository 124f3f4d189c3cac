"""A command in a fork of a warm process behaves as in a fresh process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests import warm

PRINTS = "import os, sys; print(sys.argv[1:], os.getcwd(), os.environ.get('COLOUR'), input(), sys.path[0], __name__)"
MODULES = "import sys; print(*(name in sys.modules for name in ('torch', 'onnx', 'deploytool', 'tests')))"


def both(address: str, *arguments: str, folder: Path) -> list[tuple[int, str, str]]:
    """What a program does in a fresh process, and in a fork of the process at `address`."""
    done = [
        subprocess.run(
            command, cwd=folder, env={"COLOUR": "red"}, input="line\n", capture_output=True, text=True, check=False
        )
        for command in ([sys.executable, *arguments], warm.command(address, *arguments))
    ]
    return [(each.returncode, each.stdout, each.stderr) for each in done]


@pytest.mark.parametrize(
    ("program", "code"),
    [
        (PRINTS, 0),
        ("import sys; print('out'); sys.exit(3)", 3),
        ("import sys; sys.exit('no')", 1),
        ("raise SystemExit", 0),
        ("import os, sys; print('é', file=sys.stderr); os._exit(5)", 5),
        ("import sys; print(sys.stdout.encoding, sys.stdout.line_buffering, sys.stderr.line_buffering)", 0),
        ("class A: ...\nimport pickle; print(type(pickle.loads(pickle.dumps(A()))))", 0),
    ],
)
def test_a_program_gives_the_same_answers(program: str, code: int, warmed: str, tmp_path: Path) -> None:
    fresh, forked = both(warmed, "-c", program, "one", "two words", folder=tmp_path)
    assert fresh == forked
    assert fresh[0] == code


def test_a_module_is_found_in_the_folder_and_is_the_main_program(warmed: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(f"{PRINTS}\nprint(sys.argv[0], sys.modules['__main__'].__spec__.name)\n")
    fresh, forked = both(warmed, "-m", "mine", "one", folder=tmp_path)
    assert fresh == forked
    assert fresh[0] == 0, fresh


def test_an_exception_is_printed_and_ends_with_1(warmed: str, tmp_path: Path) -> None:
    fresh, forked = both(warmed, "-c", "raise ValueError('no')", folder=tmp_path)
    assert (fresh[0], fresh[2].splitlines()[-1]) == (forked[0], forked[2].splitlines()[-1]) == (1, "ValueError: no")


def test_libraries_are_imported_ahead_and_nothing_of_deploytool(warmed: str, tmp_path: Path) -> None:
    done = subprocess.run(warm.command(warmed, "-c", MODULES), cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "True True False True\n"


def test_a_process_is_killed_by_the_same_signal(warmed: str, tmp_path: Path) -> None:
    fresh, forked = both(warmed, "-c", "import os; os.kill(os.getpid(), 9)", folder=tmp_path)
    assert fresh == forked == (-9, "", "")


def test_commands_run_side_by_side(warmed: str, tmp_path: Path) -> None:
    waits = "import pathlib, time\nwhile not pathlib.Path('go').exists(): time.sleep(0.01)"
    with subprocess.Popen(warm.command(warmed, "-c", waits), cwd=tmp_path) as first:
        subprocess.run(warm.command(warmed, "-c", "open('go', 'w')"), cwd=tmp_path, check=True)
        assert first.wait(60) == 0


@pytest.mark.parametrize(
    ("environment", "able"),
    [({}, True), ({"COLUMNS": "80"}, True), ({"PYTHONPATH": "x"}, False), ({"OMP_NUM_THREADS": "2"}, False)],
)
def test_variables_that_libraries_read_need_a_fresh_process(environment: dict[str, str], able: bool) -> None:
    assert warm.is_able(environment) is able
