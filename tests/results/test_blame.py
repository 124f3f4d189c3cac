"""What blame leaves beside a run is read back for these very graphs, and for no others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from deploytool.results import blame, receipt
from deploytool.results.blame import Blame, Finding, Layer, TracedGraph
from deploytool.spec import Stage

LAYER = Layer("stem", "t", "/stem/Conv", "Conv", 1.0, 0.1)
BLAME = Blame(
    (TracedGraph(Stage.EXPORT, (), (LAYER,)),), (0, 1), Finding(Stage.EXPORT, "eager", "stem", False, LAYER, None)
)


def test_what_was_found_is_read_back(run_copy: Path) -> None:
    assert blame.read(run_copy) is None
    blame.write(run_copy, blame._graphs(run_copy), BLAME)
    assert blame.read(run_copy) == BLAME
    assert set(blame._graphs(run_copy)) == {"export", "simplify", "rewrite", "fp16"}


def test_what_was_found_in_other_graphs_is_not(run_copy: Path) -> None:
    blame.write(run_copy, {**blame._graphs(run_copy), "fp16": "0" * 64}, BLAME)
    assert blame.read(run_copy) is None


def test_a_receipt_that_names_no_graph_is_of_other_graphs(run_copy: Path) -> None:
    blame.write(run_copy, blame._graphs(run_copy), BLAME)
    sealed = receipt.read(run_copy / "fp16")
    assert sealed is not None
    receipt.write(run_copy / "fp16", replace(sealed, files={}))
    assert blame.read(run_copy) is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": "deploytool.blame/0", "graphs": {}, "blame": null}'])
def test_anything_else_is_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / blame.FILE).write_text(text)
    assert blame.read(tmp_path) is None


def test_it_is_written_whole_or_not_at_all(run_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blame.write(run_copy, blame._graphs(run_copy), BLAME)

    def fails(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", fails)
    with pytest.raises(KeyboardInterrupt):
        blame.write(run_copy, {}, BLAME)
    assert blame.read(run_copy) == BLAME
