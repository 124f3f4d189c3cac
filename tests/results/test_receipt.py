from __future__ import annotations

from pathlib import Path

import pytest

from deploytool.results import receipt
from deploytool.results.artifact import Kind
from deploytool.results.receipt import Receipt
from deploytool.spec import Stage


@pytest.fixture
def room(tmp_path: Path) -> Path:
    (tmp_path / "model.onnx").write_bytes(b"graph")
    (tmp_path / "extra.bin").write_bytes(b"extra")
    files = receipt.digests(tmp_path)
    receipt.write(
        tmp_path, Receipt(Kind.GRAPH, Stage.FP16, "key", {Stage.SIMPLIFY: "k"}, "w", files, {}, 0.5, {"casts": 2})
    )
    return tmp_path


def sealed(room: Path) -> Receipt:
    found = receipt.read(room)
    assert found is not None
    return found


def test_a_receipt_comes_back_and_proves_its_room(room: Path) -> None:
    found = sealed(room)
    assert (found.kind, found.made_by, found.notes) == (Kind.GRAPH, "fp16", {"casts": 2})
    assert set(found.files) == {"model.onnx", "extra.bin"}
    assert receipt.proves(room, found)


@pytest.mark.parametrize("file", ["model.onnx", "extra.bin"])
def test_an_edited_file_is_noticed(room: Path, file: str) -> None:
    (room / file).write_bytes(b"grapH")
    assert not receipt.proves(room, sealed(room))


def test_a_deleted_file_is_noticed(room: Path) -> None:
    (room / "model.onnx").unlink()
    assert not receipt.proves(room, sealed(room))


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null", '{"kind": "nothing"}', "\udcff"])
def test_a_spoiled_receipt_is_no_receipt(room: Path, text: str) -> None:
    (room / receipt.FILE).write_bytes(text.encode(errors="surrogateescape"))
    assert receipt.read(room) is None


def test_no_receipt_is_no_receipt(tmp_path: Path) -> None:
    assert receipt.read(tmp_path) is None
