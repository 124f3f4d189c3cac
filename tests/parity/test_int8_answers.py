"""What proves an INT8 graph: its answers as quantised, and a tolerance from the steps that rounding decides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from deploytool.backends import onnxruntime
from deploytool.data import golden
from deploytool.data.golden import Floor, Golden, Noise, Perturbation
from deploytool.errors import BadInput
from deploytool.parity import int8_answers, metrics
from deploytool.parity.metrics import RULES
from deploytool.results.output_parts import OutputPart
from deploytool.spec import Precision, Preprocessing
from tests.int8 import planted_bundles, quantized
from tests.int8.quantized import Form

NONE = Floor(0.0, 0.0)


def sample(inputs: dict[str, np.ndarray], parts: list[OutputPart]) -> Golden:
    """Golden data of which only the inputs and the parts of the outputs count."""
    count = len(next(iter(inputs.values())))
    noise = Noise(NONE, NONE, tuple(Perturbation(part, NONE, NONE) for part in parts))
    pixels, labels = np.zeros((count, 0, 0, 3), np.uint8), np.full(count, -1)
    return Golden(pixels, inputs, {}, {}, labels, Preprocessing(), noise)


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    folder = tmp_path_factory.mktemp("int8")
    return onnx.load(quantized.quantised(quantized.network(3), folder, Form.U8S7))


@pytest.fixture(scope="module")
def cases(graph: onnx.ModelProto) -> Golden:
    return sample({"image": quantized.pictures(1, 8)}, [OutputPart(graph.graph.output[0].name)])


def test_sound_kernels_are_within_the_limits_and_faults_are_not(graph: onnx.ModelProto, cases: Golden) -> None:
    answers = int8_answers.record(graph, cases.inputs)
    limits = int8_answers.limits(graph, answers, cases)
    with onnxruntime.start(graph.SerializeToString()) as session:
        assert not metrics.check(session(**cases.inputs), answers, "itself", limits).broken
    for fault in planted_bundles.FAULTS:
        with onnxruntime.start(planted_bundles.planted(graph.SerializeToString(), fault, 2)) as session:
            assert metrics.check(session(**cases.inputs), answers, "itself", limits).broken, fault


def test_the_noise_comes_from_scales_that_are_moved(graph: onnx.ModelProto, cases: Golden) -> None:
    moved = int8_answers._moved(graph, 0)
    scales = [
        {node.output[0]: weights[node.input[1]] for node in model.graph.node if node.op_type == "QuantizeLinear"}
        for model in (graph, moved)
        for weights in [{each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}]
    ]
    shares = [float(scales[1][name] / scale) - 1 for name, scale in scales[0].items()]
    assert any(shares)
    assert all(abs(share) < 1.1 * int8_answers._MOVED for share in shares)
    assert [node.op_type for node in moved.graph.node] == [node.op_type for node in graph.graph.node]


def test_limits_are_multiples_of_the_noise_and_at_least_those_of_one_step() -> None:
    part, rule = OutputPart("logits"), RULES[Precision.INT8]
    assert metrics.int8_limits([(part, NONE)]).max_error == rule.margin.max_error * rule.least.max_error
    noisy = metrics.int8_limits([(part, Floor(0.02, 0.01))])
    assert noisy.max_error == pytest.approx(0.02 * rule.margin.max_error)
    assert 10 ** (-noisy.snr_db / 20) == pytest.approx(0.01 * rule.margin.rms)
    assert metrics.int8_limits([(part, Floor(0.9, 0.9))]).max_error == rule.coarsest


def test_labels_may_differ_by_a_multiple_of_the_share_that_rounding_changes() -> None:
    labels = OutputPart("classes", labels=True)
    (limit,) = metrics.int8_limits([(labels, Floor(0.01, 0.01))]).parts
    assert limit.tolerance.equal == pytest.approx(1 - 0.01 * RULES[Precision.INT8].margin.max_error)


def test_answers_are_written_and_read(tmp_path: Path) -> None:
    answers = {"logits": np.arange(6.0, dtype=np.float32).reshape(2, 3), "mask": np.ones((2, 1), np.bool_)}
    golden.write_answers(tmp_path / "answers.npz", answers)
    read = golden.read_answers(tmp_path / "answers.npz")
    assert {name: array.tolist() for name, array in read.items()} == {n: a.tolist() for n, a in answers.items()}
    (tmp_path / "answers.npz").write_bytes(b"PK")
    with pytest.raises(BadInput, match="is not a golden sample"):
        golden.read_answers(tmp_path / "answers.npz")
