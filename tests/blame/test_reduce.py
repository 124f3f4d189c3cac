"""Reducing a mismatch to the faulty node, to what the optimiser changes, and to noise."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from deploytool.blame import ort_trace
from deploytool.blame.locate import Divergence, locate
from deploytool.blame.reduce import Mismatch, reduce
from deploytool.blame.reference_tensor import relative_error
from deploytool.data.golden import Arrays
from deploytool.spec import Stage
from tests.blame import faults
from tests.blame.conftest import MakeRun
from tests.blame.faults import Plant
from tests.blame.test_locate import STAGES

# model, operator, index among the nodes of that operator, fault, the first wrong module
PlantedFault = tuple[str, str, int, Plant, str]
PLANTED_FAULTS: tuple[PlantedFault, ...] = (
    ("tiny", "Conv", 1, faults.scale_filter, "grouped.1"),
    ("tiny", "Conv", 2, faults.move_padding, "depthwise.1"),
    ("tiny", "Relu", 1, faults.replace_by_identity, "grouped.2"),
    ("tiny", "Conv", 1, faults.overflow, "grouped.1"),
    ("shufflenet_g3_x0_25", "Conv", 20, faults.permute_channels, "stage3.2.depthwise_bn"),
    ("shufflenet_g3_x0_25", "Add", 1, faults.repeat_first_input, "stage2.2"),
)


def find_divergence(run: Path, **faulty: Path) -> Divergence | None:
    graphs = [(stage, faulty.get(stage, run / stage / "model.onnx")) for stage in STAGES]
    return locate(run / Stage.LOAD / "weights.safetensors", run / Stage.GOLDEN / "golden.npz", graphs)[1]


def reduce_fault(run: Path, **faulty: Path) -> Mismatch:
    divergence = find_divergence(run, **faulty)
    assert divergence is not None
    mismatch = reduce(divergence)
    assert mismatch is not None
    return mismatch


@pytest.mark.parametrize(
    ("stage", "name", "op", "number", "fault", "module"),
    [
        pytest.param(stage, *fault, marks=pytest.mark.sweep if fault[0] != "tiny" and turn % len(STAGES) else ())
        for number, fault in enumerate(PLANTED_FAULTS)
        for turn, stage in enumerate(STAGES, number)  # `make test` has each fault of the larger model in one graph
    ],
)
def test_a_fault_in_one_node_is_reduced_to_that_node(
    runs: MakeRun, tmp_path: Path, stage: str, name: str, op: str, number: int, fault: Plant, module: str
) -> None:
    run = runs(name)
    tensor = faults.plant(run / stage / "model.onnx", tmp_path / "faulty.onnx", op, number, fault)
    mismatch = reduce_fault(run, **{stage: tmp_path / "faulty.onnx"})
    assert [node.output[0] for node in mismatch.subgraph.nodes] == [mismatch.tensor] == [tensor]
    assert len(mismatch.expected) == len(mismatch.actual) == 1, "one case suffices"
    onnx.checker.check_model(mismatch.subgraph.model, full_check=True)
    if stage == "export":
        assert mismatch.origin == f"what the PyTorch module {module} makes in FP64"
    else:
        assert mismatch.origin == f"the tensor {tensor} of the graph of {STAGES[STAGES.index(stage) - 1]}"
    check_correct_node(mismatch, run / stage / "model.onnx")


def check_correct_node(mismatch: Mismatch, path: Path) -> None:
    """Checks that the same node of the correct graph computes the expected value from the same inputs."""
    model = onnx.load(path)
    (node,) = (node for node in model.graph.node if node.output[0] == mismatch.tensor)
    weights = [weight for weight in model.graph.initializer if weight.name in node.input]
    alone = onnx.helper.make_graph(
        [node], "alone", mismatch.subgraph.model.graph.input, mismatch.subgraph.model.graph.output, weights
    )
    inputs = mismatch.subgraph.inputs
    if not set(node.input) <= {*inputs, *(weight.name for weight in weights)}:
        return  # the fault changed its inputs
    whole = onnx.helper.make_model(alone, opset_imports=model.opset_import, ir_version=model.ir_version)
    (actual,) = ort_trace.run_outputs(whole, [mismatch.tensor], inputs)
    assert relative_error(actual, mismatch.expected) <= mismatch.tolerance


def test_nodes_are_added_up_to_a_tensor_of_the_previous_graph(runs: MakeRun, tmp_path: Path) -> None:
    run = runs("tiny")
    faults.plant(run / "fp16" / "model.onnx", tmp_path / "faulty.onnx", "Gemm", 0, faults.drop_bias)
    mismatch = reduce_fault(run, fp16=tmp_path / "faulty.onnx")
    assert [node.op_type for node in mismatch.subgraph.nodes] == ["Gemm", "Cast"]
    assert mismatch.origin == "the tensor logits of the graph of simplify"


@pytest.mark.parametrize("stage", STAGES)
def test_a_removed_layer_is_reduced_to_the_next_node(runs: MakeRun, tmp_path: Path, stage: str) -> None:
    run = runs("tiny")
    faults.plant(run / stage / "model.onnx", tmp_path / "faulty.onnx", "Relu", 0, faults.bypass)
    mismatch = reduce_fault(run, **{stage: tmp_path / "faulty.onnx"})
    assert [node.op_type for node in mismatch.subgraph.nodes] == ["Conv"]


def test_graphs_of_the_dynamo_exporter_are_reduced(runs: MakeRun, tmp_path: Path) -> None:
    run = runs("tiny", "dynamo")
    for stage in STAGES:
        faults.plant(run / stage / "model.onnx", tmp_path / "faulty.onnx", "Conv", 1, faults.scale_filter)
        assert 1 <= len(reduce_fault(run, **{stage: tmp_path / "faulty.onnx"}).subgraph.nodes) <= 3


def test_a_correct_run_has_no_divergence(runs: MakeRun) -> None:
    assert find_divergence(runs("tiny")) is None


def test_noise_beyond_the_tolerance_is_reduced_to_the_nodes_it_needs(runs: MakeRun) -> None:
    """FP16 noise accumulates over the whole model: with correct inputs, fewer nodes have less of it."""
    run = runs("mobilenet_v1_025")
    graphs = [(stage, run / stage / "model.onnx") for stage in STAGES]
    files = (run / "load" / "weights.safetensors", run / "golden" / "golden.npz")
    blame, _ = locate(*files, graphs)
    tolerances = {"fp16": 0.9 * blame.comparisons[-1].checks[0].parity.max_error}
    _, divergence = locate(*files, graphs, tolerances)
    assert divergence is not None
    mismatch = reduce(divergence)
    assert mismatch is not None
    whole = len(onnx.load(run / "fp16" / "model.onnx").graph.node)
    assert 1 < len(mismatch.subgraph.nodes) <= whole
    assert mismatch.tensor == "logits"
    assert mismatch.origin == "the tensor logits of the graph of simplify"
    assert mismatch.error > mismatch.tolerance == tolerances["fp16"]


def test_a_fault_of_the_optimiser_is_reduced_to_the_fused_nodes(
    runs: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Simulates that ONNX Runtime fuses a convolution with its Relu wrongly when it optimises."""
    run, run_outputs = runs("tiny"), ort_trace.run_outputs

    def run_wrong(
        model: onnx.ModelProto, names: Sequence[str], inputs: Arrays, *, optimised: bool = False
    ) -> list[Any]:
        broken = onnx.ModelProto()
        broken.CopyFrom(model)
        producers = {node.output[0]: node for node in broken.graph.node}
        for node in broken.graph.node:
            if optimised and node.op_type == "Relu" and node.input[0] in producers:
                node.op_type = "Neg"
        return run_outputs(broken, names, inputs)

    assert find_divergence(run) is None
    faults.plant(run / "simplify" / "model.onnx", tmp_path / "faulty.onnx", "Conv", 1, faults.scale_filter)
    planted = find_divergence(run, simplify=tmp_path / "faulty.onnx")
    assert planted is not None
    errors = dataclasses.replace(planted.errors, first_wrong=None, wrong=frozenset())
    divergence = dataclasses.replace(planted, graph=run / "simplify" / "model.onnx", errors=errors)
    assert reduce(dataclasses.replace(divergence, tolerance=10.0)) is None
    monkeypatch.setattr(ort_trace, "run_outputs", run_wrong)
    mismatch = reduce(divergence)
    assert mismatch is not None
    assert [node.op_type for node in mismatch.subgraph.nodes] == ["Conv", "Relu"]
    assert mismatch.origin == "the same graph with ONNX Runtime's optimisation switched off"
    np.testing.assert_array_equal(np.maximum(-mismatch.actual, 0), mismatch.expected)
