"""Attention masks are not counted as overflow, however they are computed; overflow next to a mask is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest
import torch

from deploytool.backends import fp16_emulation
from deploytool.precision import fp16
from deploytool.results import verdict
from tests.user_model_export import Walk
from tests.user_models import masked_attention

MASKS = ("Infinity", "Billion", "Smallest", "Added", "AddedOnce", "AddedTwice", "Bounded", "Made", "Boolean", "Causal")
POOLS = ("Pooled", "Padded")
OVERFLOWS = ("Overflowing", "OverflowingAdded")
Arrays = dict[str, np.ndarray]
EXPORT_WARNINGS = ("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning", "ignore::UserWarning")


def without_floors(model: onnx.ModelProto) -> onnx.ModelProto:
    """The FP16 graph with each softmax reading its scores directly."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    limits = {node.output[0]: node.input[0] for node in copy.graph.node if node.op_type == "Max"}
    for node in copy.graph.node:
        if node.op_type == "Softmax":
            node.input[0] = limits[node.input[0]]
    return copy


def errors(half: onnx.ModelProto, inputs: Arrays, reference: np.ndarray) -> tuple[float, float]:
    """The errors in FP16 arithmetic, and in ONNX Runtime, which computes in FP32."""
    (emulated,) = fp16_emulation.run_with_range(half, inputs)[0].values()
    session = ort.InferenceSession(half.SerializeToString(), providers=["CPUExecutionProvider"])
    emulated_error, runtime_error = (
        float(np.nan_to_num(np.abs(got - reference), nan=np.inf).max() / np.abs(reference).max())
        for got in (emulated, session.run(None, inputs)[0])
    )
    return emulated_error, runtime_error


def make_inputs(name: str) -> Arrays:
    rng = np.random.default_rng(0)
    tokens = {"tokens": rng.normal(size=(2, 8, masked_attention.WIDTH)).astype(np.float32)}
    return tokens | ({"present": rng.integers(0, 2, (2, 8))} if name == "Lengths" else {})


def export(name: str, folder: Path) -> tuple[onnx.ModelProto, Arrays, np.ndarray]:
    """The FP32 graph of a model, inputs for it, and the model's output in FP64."""
    module = getattr(masked_attention, name)().eval()
    inputs = make_inputs(name)
    tensors = {key: torch.from_numpy(value) for key, value in inputs.items()}
    path = folder / "single.onnx"
    torch.onnx.export(module, tuple(tensors.values()), path, input_names=list(tensors), dynamo=False, opset_version=18)
    with torch.no_grad():
        doubles = (value.double() if value.is_floating_point() else value for value in tensors.values())
        reference = module.double()(*doubles)
    return onnx.load(path), make_inputs(name), reference.numpy()


@pytest.mark.filterwarnings(*EXPORT_WARNINGS)
@pytest.mark.parametrize("name", [*MASKS, *POOLS, "Lengths"])
def test_a_mask_is_not_overflow_and_the_outputs_are_right(name: str, tmp_path: Path) -> None:
    single, inputs, reference = export(name, tmp_path)
    converted = fp16.convert(single, keep_io=True)
    onnx.save(converted.half, tmp_path / "half.onnx")
    ranges = fp16_emulation.node_ranges(tmp_path / "half.onnx", inputs)
    assert max(ranges.values()) < 100, "the mask is not excluded from the range of the scores"
    outputs, largest = fp16_emulation.run_with_range(converted.half, inputs)
    assert largest < 65504
    assert converted.beyond(inputs) == frozenset()
    (emulated,) = outputs.values()
    assert np.abs(emulated - reference).max() < 3e-3 * np.abs(reference).max()
    session = ort.InferenceSession(converted.half.SerializeToString(), providers=["CPUExecutionProvider"])
    assert np.abs(session.run(None, inputs)[0] - reference).max() < 3e-3 * np.abs(reference).max()


@pytest.mark.filterwarnings(*EXPORT_WARNINGS)
@pytest.mark.parametrize("name", OVERFLOWS)
def test_overflow_next_to_a_mask_is_found(name: str, tmp_path: Path) -> None:
    single, inputs, _ = export(name, tmp_path)
    converted = fp16.convert(single, keep_io=True)
    onnx.save(converted.half, tmp_path / "half.onnx")
    ranges = fp16_emulation.node_ranges(tmp_path / "half.onnx", inputs)
    assert max(ranges.values()) > 65504
    assert all(np.isfinite(value) for value in ranges.values())
    assert fp16_emulation.run_with_range(converted.half, inputs)[1] > 65504
    assert converted.beyond(inputs)


@pytest.mark.filterwarnings(*EXPORT_WARNINGS)
def test_scores_that_are_clamped_before_a_mask_do_not_overflow(tmp_path: Path) -> None:
    single, inputs, reference = export("OverflowingClamped", tmp_path)
    converted = fp16.convert(single, keep_io=True)
    assert fp16_emulation.run_with_range(converted.half, inputs)[1] < 65504
    assert converted.beyond(inputs) == frozenset()
    assert max(errors(converted.half, inputs, reference)) < 3e-3


@pytest.mark.filterwarnings(*EXPORT_WARNINGS)
def test_a_query_that_sees_no_key_weighs_all_alike(tmp_path: Path) -> None:
    single, inputs, reference = export("LeftPadded", tmp_path)
    half = fp16.convert(single, keep_io=True).half
    assert max(errors(half, inputs, reference)) < 5e-3
    assert min(errors(without_floors(half), inputs, reference)) > 0.1


@pytest.mark.filterwarnings(*EXPORT_WARNINGS)
@pytest.mark.parametrize(
    ("name", "limited"),
    [("Smallest", 0), ("Infinity", 0), ("AddedOnce", 0), ("LeftPadded", 1), ("Lengths", 1), ("LeftPaddedTwice", 0)],
)
def test_only_scores_with_one_absorbing_mask_get_a_lower_limit(name: str, limited: int, tmp_path: Path) -> None:
    single, inputs, reference = export(name, tmp_path)
    half = fp16.convert(single, keep_io=True).half
    assert sum(node.op_type == "Max" for node in half.graph.node) == limited
    (emulated,) = fp16_emulation.run_with_range(half, inputs)[0].values()
    assert np.abs(emulated - reference).max() < 5e-3 * np.abs(reference).max()


def test_the_mask_of_an_attention_operator_is_not_overflow() -> None:
    single = onnx.parser.parse_model("""<ir_version: 11, opset_import: ["" : 23]>
        attended (float[batch,1,4,8] x) => (float[batch,1,4,8] y)
        <float none = {0.0}, float lowest = {-3.4028234663852886e38},
         bool[4,4] seen = {1,0,0,0, 1,1,0,0, 1,1,1,0, 1,1,1,1}>
        { mask = Where(seen, none, lowest)  y = Attention(x, x, x, mask) }""")
    inputs = {"x": np.random.default_rng(0).normal(size=(2, 1, 4, 8)).astype(np.float32)}
    converted = fp16.convert(single, keep_io=True)
    outputs, largest = fp16_emulation.run_with_range(converted.half, inputs)
    reference = ort.InferenceSession(single.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, inputs)[
        0
    ]
    assert largest < 10
    assert np.abs(outputs["y"] - reference).max() < 3e-3 * np.abs(reference).max()


@pytest.mark.parametrize(
    ("name", "exporter"),
    [("Infinity", "torchscript"), ("Causal", "dynamo"), ("LeftPadded", "torchscript")],
)
def test_a_model_with_a_mask_passes_the_whole_pipeline(name: str, exporter: str, walk: Walk) -> None:
    report = walk(f"masked_attention:{name}", ["tokens=8x16"], exporter, engine=False)
    assert verdict.failed_lines(report) == ()
    assert report.fp16_range is not None
    assert report.fp16_range.largest < (1000 if name == "LeftPadded" else 100)  # its scores are larger
