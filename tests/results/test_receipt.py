"""Receipts are read back, and detect changed and deleted files."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploytool.results import receipt
from deploytool.results.artifact import Kind
from deploytool.results.receipt import Receipt
from deploytool.spec import Stage


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A stage directory with two files and its receipt."""
    (tmp_path / "model.onnx").write_bytes(b"graph")
    (tmp_path / "extra.bin").write_bytes(b"extra")
    files = receipt.digests(tmp_path)
    receipt.write(
        tmp_path, Receipt(Kind.GRAPH, Stage.FP16, "key", {Stage.SIMPLIFY: "k"}, "w", files, {}, 0.5, {"casts": 2})
    )
    return tmp_path


def read(directory: Path) -> Receipt:
    record = receipt.read(directory)
    assert record is not None
    return record


def test_a_receipt_is_read_back_and_matches_its_directory(directory: Path) -> None:
    record = read(directory)
    assert (record.kind, record.made_by, record.notes) == (Kind.GRAPH, "fp16", {"casts": 2})
    assert set(record.files) == {"model.onnx", "extra.bin"}
    assert receipt.matches(directory, record)


@pytest.mark.parametrize("file", ["model.onnx", "extra.bin"])
def test_a_changed_file_does_not_match(directory: Path, file: str) -> None:
    (directory / file).write_bytes(b"grapH")
    assert not receipt.matches(directory, read(directory))


def test_a_deleted_file_does_not_match(directory: Path) -> None:
    (directory / "model.onnx").unlink()
    assert not receipt.matches(directory, read(directory))


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null", '{"kind": "nothing"}', "\udcff"])
def test_a_malformed_receipt_reads_as_none(directory: Path, text: str) -> None:
    (directory / receipt.FILE).write_bytes(text.encode(errors="surrogateescape"))
    assert receipt.read(directory) is None


def test_a_missing_receipt_reads_as_none(tmp_path: Path) -> None:
    assert receipt.read(tmp_path) is None
