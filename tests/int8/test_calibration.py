from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod
from onnxruntime.quantization.calibrate import create_calibrator

from deploytool.backends.session import Array
from deploytool.errors import BadInput, StageFailed
from deploytool.precision.int8 import calibration
from deploytool.precision.int8.calibration import Method, Table
from deploytool.precision.int8.value_range import ValueRange
from tests.int8 import nets


@cache
def graph() -> onnx.ModelProto:
    return nets.export(nets.inverted, 0)


def batches(seed: int = 1) -> list[Mapping[str, Array]]:
    return [{"input": nets.pictures(6, seed)}, {"input": nets.pictures(5, seed + 50)}]


def scaled(factor: float, batch: int | str = "batch") -> onnx.ModelProto:
    """A graph that multiplies its input."""
    value = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [batch, 2]) for name in ("x", "y")]
    weight = numpy_helper.from_array(np.array(factor, np.float32), "factor")
    made = helper.make_graph(
        [helper.make_node("Mul", ["x", "factor"], ["y"], "times")], "g", value[:1], value[1:], [weight]
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


class Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    def __init__(self) -> None:
        self.left = batches()

    def get_next(self) -> Mapping[str, Array] | None:
        return self.left.pop() if self.left else None


def test_min_max_is_that_of_onnx_runtimes_own_calibrator(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(graph(), path)
    peer = create_calibrator(
        path, augmented_model_path=str(tmp_path / "augmented.onnx"), calibrate_method=CalibrationMethod.MinMax
    )
    peer.collect_data(Reader())
    expected = {name: data.range_value for name, data in peer.compute_data().items()}
    found = calibration.collect(path, tuple(expected), batches()).ranges(Method.MIN_MAX, symmetric=False)
    assert found.keys() == expected.keys()
    for name, (low, high) in expected.items():
        assert found[name].low == pytest.approx(min(low.item(), 0.0), rel=1e-4, abs=1e-5)
        assert found[name].high == pytest.approx(max(high.item(), 0.0), rel=1e-4, abs=1e-5)


def test_the_data_is_read_once_and_not_kept() -> None:
    alive: list[weakref.ref[Array]] = []
    most = 0

    def drawn() -> Iterator[Mapping[str, Array]]:
        nonlocal most
        for seed in range(5):
            array = nets.pictures(2, seed).copy()
            alive.append(weakref.ref(array))
            most = max(most, sum(each() is not None for each in alive))
            batch = {"input": array}
            del array
            yield batch
            del batch

    table = calibration.collect(graph(), ("input", "logits"), drawn())
    assert most <= 2  # one that is being computed, and the next
    assert len(table.cases) == 10
    assert table.histograms["input"].total == 10 * 3 * nets.SIDE**2


def test_a_fixed_batch_is_filled_up() -> None:
    cases = np.arange(10, dtype=np.float32).reshape(5, 2)
    table = calibration.collect(scaled(2.0, batch=4), ("x", "y"), [{"x": cases}])
    assert table.ranges(Method.MIN_MAX, symmetric=False)["y"] == ValueRange(0.0, 18.0)


def test_an_unknown_tensor_is_refused() -> None:
    with pytest.raises(BadInput, match="no tensor z"):
        calibration.collect(scaled(1.0), ("z",), [{"x": np.ones((1, 2), np.float32)}])


def test_no_cases_are_refused() -> None:
    with pytest.raises(BadInput, match="no calibration cases"):
        calibration.collect(scaled(1.0), ("y",), [])


def test_values_that_overflow_are_refused() -> None:
    with pytest.raises(StageFailed, match="y is NaN or infinite"):
        calibration.collect(scaled(1e38), ("x", "y"), [{"x": np.full((1, 2), 1e5, np.float32)}])


def test_a_table_is_read_as_it_was_written_and_has_equal_bytes(tmp_path: Path) -> None:
    table = calibration.collect(graph(), nets.activations(graph()), batches())
    first, second = tmp_path / "first.npz", tmp_path / "second.npz"
    table.write(first)
    again = calibration.read(first)
    again.write(second)
    assert first.read_bytes() == second.read_bytes()
    assert (again.graph, again.cases) == (table.graph, table.cases)
    for method in Method:
        assert again.ranges(method, symmetric=True) == table.ranges(method, symmetric=True)


@pytest.mark.parametrize("content", [b"", b"no archive", None])
def test_another_file_is_no_table(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "table.npz"
    np.savez(path, version=np.array(2))
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadInput, match="is not a table of ranges"):
        calibration.read(path)


def test_the_fingerprint_is_that_of_nodes_and_weights() -> None:
    first = calibration.fingerprint(scaled(2.0))
    described = scaled(2.0)
    described.doc_string, described.graph.name = "another", "name"
    assert calibration.fingerprint(described) == first
    assert calibration.fingerprint(scaled(2.5)) != first
    renamed = scaled(2.0)
    renamed.graph.node[0].op_type = "Add"
    assert calibration.fingerprint(renamed) != first


def test_a_table_without_tensors_has_no_ranges() -> None:
    assert Table("", (), {}).ranges(Method.MSE, symmetric=True) == {}
