"""blame.json is read back for the same graphs only."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from deploytool.results import blame, receipt
from deploytool.results.blame import Blame, BlamedGraph, Finding, Layer
from deploytool.spec import Stage

LAYER = Layer("stem", "t", "/stem/Conv", "Conv", 1.0, 0.1)
BLAME = Blame(
    (BlamedGraph(Stage.EXPORT, (), (LAYER,)),), (0, 1), Finding(Stage.EXPORT, "eager", "stem", False, LAYER, None)
)


def test_a_written_result_is_read_back(run_copy: Path) -> None:
    assert blame.read(run_copy) is None
    blame.write(run_copy, blame.graph_digests(run_copy), BLAME)
    assert blame.read(run_copy) == BLAME
    assert set(blame.graph_digests(run_copy)) == {"export", "simplify", "rewrite", "fp16"}


def test_a_result_for_other_graphs_is_ignored(run_copy: Path) -> None:
    blame.write(run_copy, {**blame.graph_digests(run_copy), "fp16": "0" * 64}, BLAME)
    assert blame.read(run_copy) is None


def test_a_receipt_without_the_graph_makes_the_result_invalid(run_copy: Path) -> None:
    blame.write(run_copy, blame.graph_digests(run_copy), BLAME)
    record = receipt.read(run_copy / "fp16")
    assert record is not None
    receipt.write(run_copy / "fp16", replace(record, files={}))
    assert blame.read(run_copy) is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": "deploytool.blame/0", "graphs": {}, "blame": null}'])
def test_a_malformed_file_gives_no_result(tmp_path: Path, text: str) -> None:
    (tmp_path / blame.FILE).write_text(text)
    assert blame.read(tmp_path) is None


def test_an_interrupted_write_keeps_the_previous_file(run_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blame.write(run_copy, blame.graph_digests(run_copy), BLAME)

    def interrupt(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        blame.write(run_copy, {}, BLAME)
    assert blame.read(run_copy) == BLAME
