"""A small graph with external data, and what an attacker can write there."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from onnx import AttributeProto, GraphProto, ModelProto, SparseTensorProto, TensorProto, helper, numpy_helper

ROWS, BYTES = 16, 16 * 16 * 4  # of a weight
Entries = Sequence[tuple[str, str]]


def external(
    name: str, entries: Entries, dims: Sequence[int] = (ROWS, ROWS), kind: int = TensorProto.FLOAT
) -> TensorProto:
    """A tensor with these entries of external data."""
    tensor = TensorProto(name=name, data_type=kind, dims=dims, data_location=TensorProto.EXTERNAL)
    for key, value in entries:
        tensor.external_data.add(key=key, value=value)
    return tensor


def place(location: str = "w.bin", offset: object = 0, length: object = BYTES) -> Entries:
    """The entries of a tensor at that place."""
    return (("location", location), ("offset", str(offset)), ("length", str(length)))


def model(*weights: TensorProto) -> ModelProto:
    """y = x @ w0 @ w1 ..."""
    names = [weight.name for weight in weights]
    tensors = ["x", *(f"t{index}" for index in range(len(names) - 1)), "y"]
    nodes = [
        helper.make_node("MatMul", [before, name], [after], f"/layer{index}/MatMul")
        for index, (name, before, after) in enumerate(zip(names, tensors, tensors[1:], strict=False))
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", ROWS]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], weights)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    proto.producer_name = "test"
    return proto


def weight(number: int) -> npt.NDArray[np.float32]:
    """The values of a weight."""
    return np.random.default_rng(number).standard_normal((ROWS, ROWS), np.float32)


def inline(count: int) -> ModelProto:
    """The graph with its weights inside."""
    return model(*(numpy_helper.from_array(weight(number), f"w{number}") for number in range(count)))


@dataclass(frozen=True)
class Attack:
    """External data that must be refused: what is done to the folder, and the weights of the graph."""

    name: str
    weights: tuple[TensorProto, ...]
    prepare: Callable[[Path], object] = lambda folder: None
    edit: Callable[[ModelProto], object] = lambda proto: None


def write(folder: Path, attack: Attack) -> Path:
    """Writes an attack: the folder `model` with the graph and a sound side file, and a secret beside the folder."""
    inner = folder / "model"
    inner.mkdir()
    secret = np.zeros(4 * BYTES, np.uint8).tobytes()
    for path in (folder / "secret.bin", inner / "w.bin"):
        path.write_bytes(secret)
    proto = model(*attack.weights)
    attack.edit(proto)
    (inner / "model.onnx").write_bytes(proto.SerializeToString())
    attack.prepare(inner)
    return inner / "model.onnx"


def attacks() -> Iterator[Attack]:
    """Every attack."""
    yield from _locations()
    yield from _numbers()
    yield from _kinds_of_file()
    yield from _overlaps()
    yield from _contradictions()
    yield from _elsewhere()


def _one(name: str, entries: Entries, prepare: Callable[[Path], object] = lambda folder: None) -> Attack:
    return Attack(name, (external("w", entries),), prepare)


def _locations() -> Iterator[Attack]:
    outside = "../secret.bin", "../model/w.bin", "a/../../secret.bin", "a/../w.bin", "./../secret.bin", "..", "../"
    absolute = "/etc/passwd", "//etc/passwd", "/dev/zero", "/proc/self/mem", "/proc/self/environ", "~/../w.bin"
    windows = "..\\secret.bin", "C:\\w.bin", "C:/w.bin", "c:w.bin", "\\\\host\\share\\w.bin", "a\\..\\w.bin", "w.bin:s"
    forms = "", ".", "./w.bin", "w.bin/", "a//w.bin", "/", "w.bin/.", "w.bin/..", " ", "w.bin ", "w.bin.", ".. /w.bin"
    odd = "w.bin\0", "\0", "w\nbin", "w\x1b[2J.bin", "w\u202ebin", "w\u200b.bin", "\x7f", "w\r", "file:///etc/passwd"
    special = "*/_ORT_MEM_ADDR_/*", "*", "w?.bin", "w|cat", "<w.bin", '"w.bin"', "http://127.0.0.1/w", "w.bin" * 500
    itself = "model.onnx", "MODEL.ONNX", "Model.onnx"
    missing = "missing.bin", "missing/w.bin", "w.bin/w.bin", "a" * 300
    for location in (*outside, *absolute, *windows, *forms, *odd, *special, *itself, *missing):
        yield _one(f"location {location[:24]!r}", place(location))


def _numbers() -> Iterator[Attack]:
    odd = (
        "-1",
        "-0",
        "+0",
        " 0",
        "0 ",
        "0x0",
        "1e3",
        "0.0",
        "",
        "\u0660",
        "1_0",
        "None",
        "NaN",
        "0\0",
        "9" * 19,
        "9" * 40,
    )
    for text in odd:
        yield _one(f"offset {text!r}", place(offset=text))
        yield _one(f"length {text!r}", place(length=text))
    for offset in (4 * BYTES, 4 * BYTES - 4, 3 * BYTES + 1, 2**31, 2**32, 2**63 - 1, 2**64):
        yield _one(f"offset {offset}", place(offset=offset))
    for length in (
        0,
        1,
        BYTES - 1,
        BYTES + 1,
        4 * BYTES,
        4 * BYTES + 1,
        2**31,
        2**32 + BYTES,
        2**63 - 1,
        2**64 + BYTES,
    ):
        yield _one(f"length {length}", place(length=length))
    yield _one("no length, and more bytes than the tensor", place()[:2])
    yield _one("no length, and fewer bytes than the tensor", place(offset=3 * BYTES + 4)[:2])


def _kinds_of_file() -> Iterator[Attack]:
    def replace(make: Callable[[Path], object]) -> Callable[[Path], object]:
        def prepare(folder: Path) -> None:
            (folder / "w.bin").unlink()
            make(folder)

        return prepare

    def folder_link(folder: Path) -> None:
        (folder / "sub").symlink_to("..")

    def link_inside(folder: Path) -> None:
        (folder / "v.bin").write_bytes(bytes(BYTES))
        (folder / "w.bin").symlink_to("v.bin")

    kinds: dict[str, Callable[[Path], object]] = {
        "a link out": lambda folder: (folder / "w.bin").symlink_to("../secret.bin"),
        "an absolute link": lambda folder: (folder / "w.bin").symlink_to(folder.parent / "secret.bin"),
        "a link inside": link_inside,
        "a link to itself": lambda folder: (folder / "w.bin").symlink_to("w.bin"),
        "a link to nothing": lambda folder: (folder / "w.bin").symlink_to("nothing"),
        "a link to a device": lambda folder: (folder / "w.bin").symlink_to("/dev/zero"),
        "a pipe": lambda folder: os.mkfifo(folder / "w.bin"),
        "a folder": lambda folder: (folder / "w.bin").mkdir(),
        "an empty file": lambda folder: (folder / "w.bin").touch(),
        "nothing": lambda folder: None,
        "a hard link to the graph": lambda folder: os.link(folder / "model.onnx", folder / "w.bin"),
    }
    for name, make in kinds.items():
        yield _one(f"the side file is {name}", place(), replace(make))
    yield _one("a folder that is a link", place("sub/secret.bin"), folder_link)
    yield _one("a link in the middle", place("sub/model/w.bin"), folder_link)


def _overlaps() -> Iterator[Attack]:
    for offset in (0, 1, 4, BYTES - 4, BYTES - 1):
        weights = external("w0", place()), external("w1", place(offset=offset))
        yield Attack(f"two weights overlap at {offset}", weights)
    inside = external("w0", place(length=2 * BYTES), (2 * ROWS, ROWS)), external("w1", place(offset=BYTES // 2))
    yield Attack("a weight inside of another", inside)


def _contradictions() -> Iterator[Attack]:
    for key in ("location", "offset", "length", "checksum"):
        stated = dict((*place(), ("checksum", "0" * 40)))
        yield _one(f"{key} twice", (*place(), *((key, stated[key]),) * (1 if key in dict(place()) else 2)))
    for key in ("basepath", "Location", "location ", "", "url"):
        yield _one(f"key {key!r}", (*place(), (key, "w.bin")))
    yield _one("no location", place()[1:])
    yield _one("nothing stated", ())
    yield _one("another checksum", (*place(), ("checksum", "0" * 40)))
    default = external("w", place())
    default.data_location = TensorProto.DEFAULT
    yield Attack("external data that is not used", (default,))
    both = external("w", place())
    both.raw_data = bytes(BYTES)
    yield Attack("values in both places", (both,))
    typed = external("w", place())
    typed.float_data.extend([0.0] * 256)
    yield Attack("typed values in both places", (typed,))
    for dims in ((-16, -16), (-1, 16), (2**40, 2**40), (2**62, 4), (0, 16), (16, 17)):
        yield Attack(f"dimensions {dims}", (external("w", place(), dims),))
    for kind in (TensorProto.STRING, TensorProto.UNDEFINED, 99, TensorProto.DOUBLE, TensorProto.INT4):
        yield Attack(f"type {kind}", (external("w", place(), kind=kind),))


def _elsewhere() -> Iterator[Attack]:
    """A bad location in every place of a model where a tensor can be."""
    bad, sound = external("c", place("../secret.bin")), numpy_helper.from_array(weight(0), "w")
    inner = GraphProto(name="inner")
    inner.initializer.append(bad)
    sparse = SparseTensorProto(values=bad, indices=numpy_helper.from_array(np.zeros(1, np.int64), "i"), dims=[16])
    attribute = AttributeProto

    def on_node(**value: object) -> Callable[[ModelProto], object]:
        return lambda proto: proto.graph.node[0].attribute.append(attribute(name="a", **value))  # type: ignore[arg-type]

    def in_function(proto: ModelProto) -> None:
        proto.functions.add(name="f").node.add(op_type="Constant").attribute.append(attribute(name="value", t=bad))

    edits: dict[str, Callable[[ModelProto], object]] = {
        "a constant": on_node(t=bad, type=attribute.TENSOR),
        "a list of constants": on_node(tensors=[bad], type=attribute.TENSORS),
        "a subgraph": on_node(g=inner, type=attribute.GRAPH),
        "a list of subgraphs": on_node(graphs=[inner], type=attribute.GRAPHS),
        "a sparse constant": on_node(sparse_tensor=sparse, type=attribute.SPARSE_TENSOR),
        "a sparse weight": lambda proto: proto.graph.sparse_initializer.append(sparse),
        "a function": in_function,
        "training": lambda proto: proto.training_info.add().initialization.CopyFrom(inner),
    }
    for name, edit in edits.items():
        yield Attack(f"in {name}", (sound,), edit=edit)
