"""Weights outside of a graph come from side files that the manifest lists, and every other place is refused."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, SparseTensorProto, TensorProto, helper, numpy_helper

from deploytool.backends import tensorrt
from deploytool.bundle.manifest import read_manifest
from deploytool.device import external_weights, worker
from deploytool.device.candidates import Candidate, SideFile, Tier
from deploytool.device.session import open_candidate
from deploytool.device.worker import Request
from deploytool.errors import Refused
from deploytool.spec import Precision
from tests.rewrites.graph import external
from tests.rewrites.graph.external import Attack

WEIGHT = np.arange(4, dtype=np.float32)


def tensor(*, external: bool) -> TensorProto:
    proto = numpy_helper.from_array(WEIGHT, "w")
    if external:
        proto.ClearField("raw_data")
        proto.data_location = TensorProto.EXTERNAL
        for key, value in {"location": "w.bin", "offset": "0", "length": "16"}.items():
            entry = proto.external_data.add()
            entry.key, entry.value = key, value
    return proto


def model(weight: TensorProto) -> ModelProto:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", values[:1], values[1:], [weight])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    proto.ir_version = 8
    return proto


def candidate(path: Path) -> Candidate:
    raw = path.read_bytes()
    digest = hashlib.sha256(raw).hexdigest()
    return Candidate(
        Tier.ORT_CPU, str(path), len(raw), digest, "onnxruntime", "cpu", "", Precision.FP32, Precision.FP32
    )


def test_external_weights_in_the_working_folder_are_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    WEIGHT.tofile("w.bin")
    Path("in.onnx").write_bytes(model(tensor(external=False)).SerializeToString())
    Path("out.onnx").write_bytes(model(tensor(external=True)).SerializeToString())
    with open_candidate(candidate(tmp_path / "in.onnx")) as session:
        assert session(x=np.ones((1, 4), np.float32))["y"].tolist() == [[1, 2, 3, 4]]
    with pytest.raises(Refused, match="has external weights"), open_candidate(candidate(tmp_path / "out.onnx")):
        pass


def listed(path: Path, *sides: Path) -> Candidate:
    """A candidate of a graph, with these side files listed."""
    files = [(side.read_bytes(), str(side)) for side in sides]
    weights = tuple(SideFile(name, len(raw), hashlib.sha256(raw).hexdigest()) for raw, name in files)
    return replace(candidate(path), weights=weights)


def test_weights_come_from_a_listed_side_file(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(8) + WEIGHT.tobytes())
    weight = external.external("w", external.place(offset=8, length=16), [4])
    (tmp_path / "out.onnx").write_bytes(model(weight).SerializeToString())
    with open_candidate(listed(tmp_path / "out.onnx", tmp_path / "w.bin")) as session:
        assert session(x=np.ones((1, 4), np.float32))["y"].tolist() == [[1, 2, 3, 4]]


@pytest.mark.parametrize("attack", list(external.attacks()), ids=lambda attack: attack.name)
def test_every_attack_by_external_data_is_refused_in_one_line(attack: Attack, tmp_path: Path) -> None:
    """Even where the manifest lists every file within reach, as of a bundle that an attacker made."""
    (tmp_path / "before").mkdir()
    path, before = external.write(tmp_path, attack), tmp_path / "before" / "w.bin"
    before.write_bytes(bytes(4 * external.BYTES))
    sound = listed(path, before, tmp_path / "secret.bin", path)
    renamed = [replace(side, path=str(path.with_name("w.bin"))) for side in sound.weights[:1]]
    with pytest.raises(Refused) as caught, open_candidate(replace(sound, weights=(*renamed, *sound.weights[1:]))):
        pass
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600


def in_a_constant(proto: ModelProto) -> None:
    proto.graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor(external=True)))


def in_a_branch(proto: ModelProto) -> None:
    branch = helper.make_graph([], "b", [], [], [tensor(external=True)])
    proto.graph.node.append(helper.make_node("If", ["x"], ["c"], then_branch=branch, else_branch=branch))


def in_a_function(proto: ModelProto) -> None:
    node = helper.make_node("Constant", [], ["c"], value=tensor(external=True))
    proto.functions.append(helper.make_function("own", "F", [], ["c"], [node], [helper.make_opsetid("", 17)]))


def in_a_sparse_tensor(proto: ModelProto) -> None:
    proto.graph.sparse_initializer.add().values.CopyFrom(tensor(external=True))


def in_a_training(proto: ModelProto) -> None:
    proto.training_info.add().algorithm.initializer.append(tensor(external=True))


def in_the_indices_of_a_sparse_tensor(proto: ModelProto) -> None:
    proto.graph.sparse_initializer.add().indices.CopyFrom(tensor(external=True))


def in_the_start_of_a_training(proto: ModelProto) -> None:
    proto.training_info.add().initialization.initializer.append(tensor(external=True))


def in_the_default_of_a_function(proto: ModelProto) -> None:
    function = helper.make_function("own", "F", [], [], [], [helper.make_opsetid("", 17)])
    function.attribute_proto.append(helper.make_attribute("c", tensor(external=True)))
    proto.functions.append(function)


def in_a_list_of_tensors(proto: ModelProto) -> None:
    proto.graph.node.append(helper.make_node("Own", [], ["c"], values=[tensor(external=True)]))


def in_a_list_of_branches(proto: ModelProto) -> None:
    branch = helper.make_graph([], "b", [], [], [tensor(external=True)])
    proto.graph.node.append(helper.make_node("Own", ["x"], ["c"], branches=[branch]))


def sparse() -> SparseTensorProto:
    proto = SparseTensorProto()
    proto.values.CopyFrom(tensor(external=True))
    return proto


def in_a_sparse_constant(proto: ModelProto) -> None:
    proto.graph.node.append(helper.make_node("Constant", [], ["c"], sparse_value=sparse()))


def in_a_list_of_sparse_tensors(proto: ModelProto) -> None:
    proto.graph.node.append(helper.make_node("Own", [], ["c"], values=[sparse()]))


PLACES = (
    *(in_a_constant, in_a_branch, in_a_function, in_a_sparse_tensor, in_a_training, in_the_indices_of_a_sparse_tensor),
    *(in_the_start_of_a_training, in_the_default_of_a_function, in_a_list_of_tensors, in_a_list_of_branches),
    *(in_a_sparse_constant, in_a_list_of_sparse_tensors),
)


@pytest.mark.parametrize("add", PLACES)
def test_external_weights_are_refused_wherever_they_occur(add: Callable[[ModelProto], None]) -> None:
    proto = model(tensor(external=False))
    assert external_weights.find(proto.SerializeToString(), "graph") == ()
    add(proto)
    with pytest.raises(Refused, match="has external weights outside of its main graph"):
        external_weights.find(proto.SerializeToString(), "graph")


@pytest.mark.parametrize("field", ["data_location", "external_data"])
def test_either_field_of_external_weights_is_refused(field: str) -> None:
    weight = tensor(external=True)
    weight.ClearField(field)
    with pytest.raises(Refused, match=r"not an ONNX graph: (a weight contradicts itself|has external data at '')"):
        external_weights.find(model(weight).SerializeToString(), "graph")


@pytest.mark.parametrize(
    "raw",
    [b"\x07", b"\x3a", b"\x3a\xff", b"\x3a\x05\x0a", b"\xff" * 40, b"\x3c\x01", b"\x39\x01", b"\x80" * 11 + bytes(2)],
)
def test_bytes_that_are_no_graph_are_refused(raw: bytes) -> None:
    with pytest.raises(Refused, match="not an ONNX graph"):
        external_weights.find(raw, "graph")


@pytest.mark.parametrize("dims", [[0, 1 << 62, 1 << 62], [1 << 63], [1] * 65], ids=str)
def test_a_shape_that_no_array_can_have_is_refused(dims: list[int]) -> None:
    weight = external.external("w", external.place(length=0 if 0 in dims else 4), [0])
    weight.ClearField("dims")
    varints = b"".join(_varint(size) for size in dims)
    raw = weight.SerializeToString() + b"\x0a" + _varint(len(varints)) + varints
    with pytest.raises(Refused, match="w cannot be outside of the graph"):
        external_weights.find(
            b"\x3a" + _varint(len(raw) + 1 + len(_varint(len(raw)))) + b"\x2a" + _varint(len(raw)) + raw, "graph"
        )


def _varint(number: int) -> bytes:
    """A number of seven bits per byte, as protobuf writes it."""
    low, rest = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + _varint(rest) if rest else bytes([low])


@pytest.mark.parametrize("field", [13, 14])
def test_a_field_with_a_number_beyond_32_bits_is_refused(field: int) -> None:
    """ONNX Runtime keeps the lower bits, and reads external weights where a parser that keeps all finds none."""
    key = field << 3 | 2
    disguised = bytes([key & 0x7F | 0x80, 0x80, 0x80, 0x80, 0x10, 0])
    raw = b"\x3a\x08\x2a\x06" + disguised  # a weight of a graph
    with pytest.raises(Refused, match="a field has an invalid number"):
        external_weights.find(raw, "graph")


def test_the_graphs_of_a_bundle_are_accepted(packed: Path) -> None:
    for path in packed.glob("models/*/*/model.onnx"):
        assert external_weights.find(path.read_bytes(), str(path)) == ()
        onnx.checker.check_model(path)


def test_no_engine_is_built_from_external_weights(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt, "library", lambda _: None)
    (tmp_path / "out.onnx").write_bytes(model(tensor(external=True)).SerializeToString())
    request = Request("build", str(tmp_path), read_manifest(packed), candidate(tmp_path / "out.onnx"), "", out="engine")
    with pytest.raises(Refused, match="has external weights"):
        worker._build(request)
