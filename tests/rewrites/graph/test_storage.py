"""Graphs are loaded and saved with or without side files, and every attack by external data is refused in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deploytool.errors import BadInput
from deploytool.host import side_files
from deploytool.rewrites.graph import storage, weights
from tests.rewrites.graph import external
from tests.rewrites.graph.external import BYTES, Attack, place

ATTACKS = list(external.attacks())


@pytest.fixture
def _low_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "MAX_INLINE_BYTES", 2 * BYTES)


def by_onnx(path: Path) -> onnx.ModelProto:
    """The graph as onnx itself loads it."""
    graph = onnx.load(path)
    for weight in graph.graph.initializer:
        weight.ClearField("data_location")
    return graph


def test_there_are_enough_attacks() -> None:
    assert len(ATTACKS) >= 100
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS)


@pytest.mark.parametrize("attack", ATTACKS, ids=[attack.name for attack in ATTACKS])
def test_external_data_that_is_unsafe_or_wrong_is_refused_in_one_line(attack: Attack, tmp_path: Path) -> None:
    path = external.write(tmp_path, attack)
    for read in (storage.load, storage.load_structure, storage.files_of):
        with pytest.raises(BadInput) as caught:
            read(path)
        message = f"{caught.value} -> {caught.value.remedy}"
        assert message.isprintable()
        assert len(message) < 600


def test_a_small_graph_is_one_file_with_the_bytes_of_its_message(tmp_path: Path) -> None:
    graph, path = external.inline(2), tmp_path / "model.onnx"
    side_files.side_file(path).touch()  # of an earlier graph
    storage.save(graph, path)
    assert path.read_bytes() == graph.SerializeToString(deterministic=True)
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
    assert storage.load(path) == graph
    assert storage.files_of(path) == (path,)


@pytest.mark.usefixtures("_low_limit")
def test_a_large_graph_has_a_side_file_that_onnx_itself_reads(tmp_path: Path) -> None:
    graph, path = external.inline(3), tmp_path / "model.onnx"
    storage.save(graph, path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    assert path.stat().st_size < BYTES
    assert by_onnx(path) == graph
    offsets = [
        int(entry.value) for w in storage.load_structure(path).graph.initializer for entry in w.external_data[1:2]
    ]
    assert offsets == [0, 4096, 8192]
    assert storage.files_of(path) == (path, tmp_path / "model.onnx.data")


@pytest.mark.usefixtures("_low_limit")
def test_a_graph_that_shrinks_is_one_file_again(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    storage.save(external.inline(3), path)
    before = [file.read_bytes() for file in storage.files_of(path)]
    storage.save(storage.load(path), tmp_path / "again.onnx")
    again = [file.read_bytes() for file in storage.files_of(tmp_path / "again.onnx")]
    assert again[1] == before[1]
    storage.save(external.inline(2), path)
    assert not side_files.side_file(path).exists()


@pytest.mark.usefixtures("_low_limit")
def test_a_loaded_graph_has_its_values_in_the_side_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    storage.save(external.inline(3), path)
    graph = storage.load(path)
    assert graph.ByteSize() < BYTES
    assert weights.is_large(graph)
    for number, weight in enumerate(graph.graph.initializer):
        assert (weights.values(weight) == external.weight(number)).all()


@pytest.mark.usefixtures("_low_limit")
def test_a_copy_has_a_side_file_of_its_own_name(tmp_path: Path) -> None:
    path, target = tmp_path / "model.onnx", tmp_path / "new" / "engine.onnx"
    target.parent.mkdir()
    storage.save(external.inline(3), path)
    storage.copy(path, target)
    storage.remove(path)
    assert not list(tmp_path.glob("model*"))
    assert by_onnx(target) == external.inline(3)
    storage.copy(target, path)
    assert by_onnx(path) == external.inline(3)


def test_files_of_other_programs_are_loaded_and_saved_as_one_file(tmp_path: Path) -> None:
    theirs, ours = tmp_path / "theirs.onnx", tmp_path / "ours.onnx"
    graph = external.inline(2)
    graph.graph.node.add(op_type="Constant", output=["c"]).attribute.append(
        helper.make_attribute("value", numpy_helper.from_array(np.arange(300, dtype=np.int64), "c"))
    )
    separate = onnx.ModelProto.FromString(graph.SerializeToString())
    onnx.save_model(
        separate,
        theirs,
        save_as_external_data=True,
        all_tensors_to_one_file=False,
        size_threshold=0,
        convert_attribute=True,
    )
    assert len(storage.files_of(theirs)) == 4
    storage.save(storage.load(theirs), ours)
    assert ours.read_bytes() == graph.SerializeToString(deterministic=True)
    storage.copy(theirs, tmp_path / "copy.onnx")
    assert (tmp_path / "copy.onnx").read_bytes() == ours.read_bytes()


@pytest.mark.parametrize("kind", [TensorProto.INT4, TensorProto.BFLOAT16, TensorProto.BOOL, TensorProto.FLOAT16])
def test_values_of_every_type_come_from_a_side_file(kind: int, tmp_path: Path) -> None:
    values = np.arange(3000).reshape(30, 100) % 7 - 3
    weight = helper.make_tensor("w0", kind, values.shape, values.astype(helper.tensor_dtype_to_np_dtype(kind)))
    raw = numpy_helper.from_array(numpy_helper.to_array(weight), "w").raw_data
    (tmp_path / "w.bin").write_bytes(b"\0" + raw)  # no alignment is required
    stub = external.external("w0", place(offset=1, length=len(raw)), values.shape, kind)
    (tmp_path / "model.onnx").write_bytes(external.model(stub).SerializeToString())
    loaded = weights.values(storage.load(tmp_path / "model.onnx").graph.initializer[0])
    assert loaded.tolist() == numpy_helper.to_array(weight).tolist()


@pytest.mark.parametrize("content", [b"", b"no graph", b"\x08\x09", None])
def test_what_is_no_graph_is_refused(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadInput, match=r"model\.onnx"):
        storage.load(path)


@pytest.mark.parametrize("old", [b"MatMul", b"/layer0/", b"batch", b"w0", b"test"])
def test_a_text_that_is_not_utf_8_is_refused(old: bytes, tmp_path: Path) -> None:
    raw = external.inline(1).SerializeToString()
    assert raw.count(old)
    (tmp_path / "model.onnx").write_bytes(raw.replace(old, b"\xff" + old[1:]))
    for read in (storage.load, storage.load_structure, storage.files_of):
        with pytest.raises(BadInput, match=r"model\.onnx has a name that is not UTF-8: \w+ b'.*\\xff"):
            read(tmp_path / "model.onnx")


def test_a_link_to_a_graph_is_followed_and_its_side_files_are_beside_the_link(tmp_path: Path) -> None:
    attack = Attack("sound", (external.external("w", place()),))
    path = external.write(tmp_path, attack)
    path.rename(tmp_path / "blob")
    path.symlink_to("../blob")
    assert storage.files_of(path)[1] == path.with_name("w.bin")


@pytest.mark.usefixtures("_low_limit")
def test_types_are_inferred_without_the_weights(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    storage.save(external.inline(3), path)
    for graph in (external.inline(3), storage.load(path)):
        inferred = weights.infer_shapes(graph, strict=True)
        assert [value.name for value in inferred.graph.value_info] == ["t0", "t1"]
        assert inferred.ByteSize() < BYTES


def recording(function: Callable[..., Any], sizes: list[int]) -> Callable[..., Any]:
    """The function, which also notes the size of the model that it is given."""

    def call(model: onnx.ModelProto, **options: Any) -> Any:
        sizes.append(model.ByteSize())
        return function(model, **options)

    return call


def test_onnx_gets_no_message_whose_copies_would_exceed_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, given = external.inline(2), list[int]()
    monkeypatch.setattr(weights, "MAX_INLINE_BYTES", 2 * weights.weight_bytes(graph))  # it fits into one message
    infer_shapes = onnx.shape_inference.infer_shapes
    for module, name in ((onnx.shape_inference, "infer_shapes"), (onnx.checker, "check_model")):
        monkeypatch.setattr(module, name, recording(getattr(module, name), given))
    inferred = weights.infer_shapes(graph)
    weights.check(graph)
    assert len(given) == 2
    assert max(given) < graph.ByteSize() / 2
    whole = infer_shapes(graph)
    assert list(inferred.graph.value_info) == list(whole.graph.value_info)
