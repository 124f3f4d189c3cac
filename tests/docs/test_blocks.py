"""Runs the code blocks of the README and the pages, and compares their output with the page."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer

from deploytool.cli.app import app
from tests.conftest import ROOT, Command
from tests.docs.pages import LANGUAGES, REASONS, Block, blocks, runnable, same
from tests.docs.walk import Walk, shortened

BLOCKS = blocks()
MARKED = [block for block in BLOCKS if block.reason is not None]
GROUP: Any = typer.main.get_command(app)
TARGETS = re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)


def named(cases: Sequence[Block]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("block", cases, ids=lambda block: block.name)


@named([block for block in BLOCKS if runnable(block)])
def test_a_block_runs(block: Block, walks: Callable[[Path], Walk]) -> None:
    failure = walks(block.page).upto(block)
    assert not failure, failure


@named(MARKED)
def test_a_block_that_is_not_run_has_a_reason_and_valid_commands(block: Block) -> None:
    assert block.reason in REASONS
    assert block.steps
    for step in block.steps:
        program, *words = shlex.split(step.command, comments=True)
        if program == "make":
            assert words[0] in TARGETS
        elif program == "python":
            assert words[:2] == ["-m", "deploytool.device"]
            _assert_valid(words[2:])
        elif program == "deploytool":
            _assert_valid(words)


def _assert_valid(words: Sequence[str]) -> None:
    """Asserts that the command and its options exist."""
    command = GROUP.get_command(None, words[0])
    assert command, words
    options = {name for parameter in command.params for name in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= options


@named(BLOCKS)
def test_a_block_has_a_known_language(block: Block) -> None:
    assert block.language in LANGUAGES
    if block.language == "text":
        assert not re.search(r"^(\$|deploytool|python|make) ", block.text, re.MULTILINE)
    elif block.language in ("sh", "console"):
        assert block.steps


def test_the_example_configuration_is_valid(deploytool: Command, tmp_path: Path) -> None:
    (example,) = [block for block in BLOCKS if block.file == "deploytool.toml"]
    (tmp_path / "deploytool.toml").write_text(example.text)
    for command, refused in (("export", "there is no model 'nothing'"), ("verify", "cannot be read")):
        done = deploytool(command, "nothing", "--verbose")
        assert refused in done.stderr
        assert "(deploytool.toml)" in done.stderr


def test_a_run_has_the_files_that_the_readme_lists(prepared: tuple[Path, Path]) -> None:
    made = prepared[0] / "artifacts" / "shufflenet_g3"
    files = re.findall(r"^\| `([\w/]+\.\w+)` \|", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(files) == 12
    assert not [file for file in files if not (made / file).is_file()]


@pytest.mark.parametrize(
    ("printed", "output", "is_same"),
    [
        (("a  1.5e-07", "b"), "a 3\nb\n", True),
        (("a", "…", "b"), "a\nx\n\ny\nb\n", True),
        (("a", "…"), "a\n", True),
        (("a",), "a\nb\n", False),
        (("a", "b"), "a\n", False),
        (("a: held",), "a: broken\n", False),
        (("digest db8f48b3477b",), "digest 0123456789ab\n", True),
    ],
)
def test_output_is_compared_without_numbers(printed: tuple[str, ...], output: str, is_same: bool) -> None:
    assert same(printed, output) == is_same


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("deploytool export a --trt", "deploytool export --seconds 0.1 a --trt"),
        ("deploytool export a --quick", "deploytool export a --quick"),
        ("deploytool bench a --seconds 8", "deploytool bench a --seconds 8"),
        ("deploytool models", "deploytool models"),
        ("openssl ec", "openssl ec"),
    ],
)
def test_only_commands_that_measure_are_shortened(command: str, expected: str) -> None:
    assert shortened(command) == expected
