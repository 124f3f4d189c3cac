from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from deploytool.cli import app
from deploytool.cli.blame import blame
from deploytool.errors import BadInput
from tests.tracing import faults

if not any(command.callback is blame for command in app.registered_commands):
    app.command("blame")(blame)


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["blame", *arguments], env={"COLUMNS": "160"})


def spoil(run: Path, stage: str) -> None:
    graph = run / stage / "graph.onnx"
    faults.plant(graph, graph, "Conv", 1, faults.scale_filter)


def test_a_clean_run_ends_with_nobody_to_blame(finished: Path) -> None:
    done = call(str(finished))
    assert done.exit_code == 0
    assert "nobody is to blame" in done.stdout
    verdicts = {line.split()[0]: line.split()[2] for line in done.stdout.splitlines() if "e-" in line}
    assert verdicts == dict.fromkeys(("translate", "simplify", "rewrite", "halve"), "pass")


@pytest.mark.parametrize("stage", ["translate", "simplify", "rewrite", "halve"])
def test_a_fault_is_named_and_parity_fails(run_copy: Path, stage: str) -> None:
    spoil(run_copy, stage)
    done = call(str(run_copy))
    assert done.exit_code == 3
    for said in (
        f"{stage}/graph.onnx strays from",
        "first in       grouped.0",
        "seen at        Conv /grouped/grouped.0",
    ):
        assert said in done.stdout
    assert "error before" in done.stdout
    assert "the file is not the one that the stage made" in done.stderr


def test_json_holds_every_layer_of_every_graph(run_copy: Path) -> None:
    spoil(run_copy, "halve")
    done = call(str(run_copy), "--json")
    told: dict[str, Any] = json.loads(done.stdout)
    assert done.exit_code == told["error"]["exit_code"] == 3
    assert told["blame"]["finding"]["module"] == "grouped.0"
    strips = {hop["stage"]: hop["layers"] for hop in told["blame"]["hops"]}
    assert list(strips) == ["translate", "simplify", "rewrite", "halve"]
    for layers in strips.values():
        assert [layer["op"] for layer in layers if layer["op"] == "Conv"] == ["Conv"] * 3
        assert all(set(layer) == {"module", "tensor", "node", "op", "error", "floor"} for layer in layers)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    done = call(str(tmp_path))
    assert isinstance(done.exception, BadInput)
    assert "holds no run" in str(done.exception)
