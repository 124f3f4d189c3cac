"""The build estimate: parsing of the build log, and a real build with TensorRT-RTX on the CPU."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from deploytool.backends import tensorrt_estimate
from deploytool.errors import StageFailed
from deploytool.spec import BATCH, Range
from tests.conftest import TINY

LOG = """Engine generation completed in 0.3 seconds.
Layers:
Name: __mye1_0, LayerType: shape_call, Inputs: [], Constants: [], Outputs: [], TacticName: , StreamId: 0, Metadata:
Name: cast_1, LayerType: kgen, Inputs: [ { Name: input, Dimensions: [-1,3,4,4], Datatype: Float, Format: (Linear) }], \
Constants: [], Outputs: [ { Name: half, Dimensions: [-1,4,4,4], Datatype: Half, Format: (NHWC) }], TacticName: x
Name: sync, LayerType: signal, Inputs: [], Constants: [], Outputs: [], TacticName: , StreamId: 0, EventId: 1
Name: sync, LayerType: wait, Inputs: [], Constants: [], Outputs: [], TacticName: , StreamId: 1, EventId: 1
Name: conv, LayerType: correlation, Inputs: [ { Name: half, Dimensions: [-1,4,4,4], Datatype: Half, Format: (NHWC) }]
Bindings:
input""".replace("\\\n", "")


def test_parse_log_counts_kernels_syncs_and_bytes() -> None:
    assert tensorrt_estimate.parse_log(LOG, 123) == tensorrt_estimate.BuildEstimate(
        kernels=2, syncs=2, traffic=3 * 16 * 4 + 4 * 16 * 2 + 4 * 16 * 2, size=123
    )


def test_an_int8_value_is_one_byte() -> None:
    halved = tensorrt_estimate.parse_log(LOG, 0).traffic
    assert tensorrt_estimate.parse_log(LOG.replace("Datatype: Half", "Datatype: Int8"), 0).traffic == halved - 2 * 64


def test_a_log_without_layers_is_an_error() -> None:
    with pytest.raises(StageFailed, match="lists no layers"):
        tensorrt_estimate.parse_log("Engine generation completed", 1)


def test_a_real_build_is_estimated(finished: Path) -> None:
    graph = (finished / "fp16" / "model.onnx").read_bytes()
    estimate = tensorrt_estimate.estimate(graph, TINY.inputs, {BATCH: Range()})
    assert 4 <= estimate.kernels <= 20
    assert estimate.size > 10_000
    assert estimate.traffic > 3 * 32 * 32 * 4


def test_an_fp32_graph_is_estimated_too(finished: Path) -> None:
    graph = (finished / "simplify" / "model.onnx").read_bytes()
    assert tensorrt_estimate.estimate(graph, TINY.inputs, {BATCH: Range()}).kernels > 0


def test_a_graph_that_tensorrt_rejects_is_an_error() -> None:
    text = '<ir_version: 8, opset_import: ["" : 18]> g (float[batch,3,32,32] input) => (float[batch,3,32,32] logits) {'
    graph = onnx.parser.parse_model(text + " logits = Det_of_a_kind(input) }")
    with pytest.raises(StageFailed, match="TensorRT rejects the graph"):
        tensorrt_estimate.estimate(graph.SerializeToString(), TINY.inputs, {BATCH: Range()})
