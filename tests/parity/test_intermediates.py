from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest

from deploytool.backends import fp16_emulation, onnxruntime, reference
from deploytool.backends.session import Array, Session
from deploytool.data.golden import Floor, Noise
from deploytool.errors import BadInput
from deploytool.parity import intermediates, metrics
from deploytool.parity.intermediates import Probes
from deploytool.spec import Range
from tests.known_issues.graphs import reported_pattern, save

IMAGES = {"image": np.random.default_rng(1).normal(size=(2, 3, 6, 6)).astype(np.float32)}


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    return save(reported_pattern(), tmp_path / "model.onnx")


def test_probes_are_read_back_as_written(tmp_path: Path) -> None:
    probes = Probes({"/0/Add_output_0": np.arange(6.0).reshape(2, 3), "file": np.ones((2, 1), np.float16)})
    for name in ("one.npz", "two.npz"):
        intermediates.write(tmp_path / name, probes)
    read = intermediates.read(tmp_path / "one.npz").values
    assert list(read) == list(probes.values)
    for name, values in probes.values.items():
        np.testing.assert_array_equal(read[name], values)
        assert read[name].dtype == values.dtype
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()


@pytest.mark.parametrize("content", [b"", b"garbage", None])
def test_another_file_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "probes.npz"
    np.savez(path, np.arange(3)) if content is None else path.write_bytes(content)
    with pytest.raises(BadInput, match="does not contain probes"):
        intermediates.read(path)


@pytest.mark.parametrize("backend", [onnxruntime, reference, fp16_emulation], ids=lambda module: module.__name__)
def test_an_intermediate_tensor_is_returned_and_the_graph_is_unchanged(graph: Path, backend: object) -> None:
    before = graph.read_bytes()
    answers = intermediates.answers(graph, ["sum", "nowhere"], backend.start, IMAGES)  # type: ignore[attr-defined]  # a module
    assert set(answers) == {"pooled", "sum"}
    assert answers["sum"].shape == (2, 4, 6, 6)
    np.testing.assert_allclose(answers["sum"].mean((2, 3)), answers["pooled"][:, 8:, 0, 0], rtol=1e-5, atol=1e-6)
    assert graph.read_bytes() == before
    assert [path.name for path in graph.parent.iterdir()] == ["model.onnx"]


def test_the_batch_range_is_respected(graph: Path) -> None:
    sizes = []

    @contextmanager
    def counted(path: Path) -> Iterator[Session]:
        with onnxruntime.start(path) as session:

            def call(**inputs: Array) -> dict[str, Array]:
                sizes.append(len(inputs["image"]))
                return session(**inputs)

            yield call

    answers = intermediates.answers(graph, ["sum"], counted, IMAGES, Range(3, 3, 3))
    assert sizes == [3]
    assert len(answers["sum"]) == 2


def test_nothing_is_run_if_the_graph_has_none_of_the_tensors(graph: Path) -> None:
    def never(path: Path) -> AbstractContextManager[Session]:
        raise AssertionError("a session was started")

    for tensors in ([], ["nowhere"], ["pooled"]):
        assert intermediates.answers(graph, tensors, never, IMAGES) == {}


def test_each_probe_has_its_own_check() -> None:
    probes = Probes({"a": np.ones((2, 3)), "b": np.ones((2, 3)), "c": np.ones((2, 3))})
    got = {"a": np.ones((4, 3)), "b": np.full((4, 3), 1.1), "logits": np.zeros((4, 5))}
    checks = intermediates.checks(probes, got, metrics.tolerances(Noise(Floor(1e-7, 1e-7), Floor(1e-3, 1e-3)), {}).fp16)
    assert [(check.against, bool(check.broken)) for check in checks] == [("probe a", False), ("probe b", True)]


def test_the_copy_is_a_valid_graph(graph: Path) -> None:
    graphs = []

    def start(path: Path) -> AbstractContextManager[Session]:
        graphs.append(onnx.load(path))
        return onnxruntime.start(path)

    intermediates.answers(graph, ["sum", "active"], start, IMAGES)
    onnx.checker.check_model(graphs[0], full_check=True)
    assert [output.name for output in graphs[0].graph.output] == ["pooled", "sum", "active"]
