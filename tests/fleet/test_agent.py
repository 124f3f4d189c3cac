"""The program on the device: it needs Python 3.8 alone, and answers wrong requests in one line."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deploytool.fleet import session

PROGRAM = session._PROGRAM


def test_it_is_python_3_8_and_imports_the_standard_library_alone() -> None:
    tree = ast.parse(PROGRAM.read_text(), feature_version=(3, 8))
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    modules |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {module.partition(".")[0] for module in modules} <= sys.stdlib_module_names


def ask(request: object) -> list[dict[str, Any]]:
    raw = request if isinstance(request, bytes) else json.dumps(request).encode()
    done = subprocess.run([sys.executable, str(PROGRAM)], input=raw + b"\n", capture_output=True, check=True)
    assert not done.stderr
    return [json.loads(line.removeprefix(b"deploytool:")) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    "request_",
    [b"", b"{", b"[]", b"5", {}, {"do": "nothing"}, {"do": "run"}, {"do": "start", "id": 5}, {"do": "follow"}],
    ids=str,
)
def test_a_wrong_request_is_one_line(request_: object) -> None:
    assert ask(request_) == [{"problem": "the request is invalid"}]


@pytest.mark.parametrize("name", ["../../etc", "", "A", "a" * 65])
def test_a_job_has_a_plain_name(name: str, tmp_path: Path) -> None:
    assert ask({"do": "start", "root": str(tmp_path), "id": name}) == [{"problem": "the name of the job is invalid"}]
    (answer,) = ask({"do": "follow", "root": str(tmp_path), "job": name, "offset": 0})
    assert "there is no job" in answer["problem"]
    assert not list(tmp_path.iterdir())


def test_a_root_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "jobs").write_text("a file")
    (answer,) = ask({"do": "start", "root": str(tmp_path), "id": "verify-0123"})
    assert answer["problem"] == f"{tmp_path / 'jobs'}: File exists"


def test_a_job_for_another_current_bundle_does_nothing(tmp_path: Path) -> None:
    (tmp_path / "current").write_text(json.dumps({"current": "b" * 64}))
    request = {"id": "rollback-01", "same": "s", "steps": [["x"]], "undo": [], "last": [], "remove": "", "key": ""}
    answers = ask({"do": "start", "root": str(tmp_path), "current": "a" * 64, **request})
    assert answers[0] == {"job": "rollback-01"}
    result = answers[-1]["result"]
    assert result["problem"] == f"the current bundle is {'b' * 12} by now, not {'a' * 12}"
    assert result["steps"] == []
    assert ask({"do": "follow", "root": str(tmp_path), "job": "rollback-01", "offset": 0})[-1]["result"] == result
