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
from tests.blame.conftest import Runs
from tests.blame.faults import Plant
from tests.blame.test_locate import STAGES

Place = tuple[str, str, int, Plant, str]  # model, kind of node, which of them, fault, the module that is wrong first
PLACES: tuple[Place, ...] = (
    ("tiny", "Conv", 1, faults.scale_filter, "grouped.1"),
    ("tiny", "Conv", 2, faults.move_padding, "depthwise.1"),
    ("tiny", "Relu", 1, faults.forget, "grouped.2"),
    ("tiny", "Conv", 1, faults.overflow, "grouped.1"),
    ("shufflenet_g3_x0_25", "Conv", 20, faults.permute_channels, "stage3.2.depthwise_bn"),
    ("shufflenet_g3_x0_25", "Add", 1, faults.add_itself, "stage2.2"),
)


def clue_of(run: Path, **spoiled: Path) -> Divergence | None:
    graphs = [(stage, spoiled.get(stage, run / stage / "model.onnx")) for stage in STAGES]
    return locate(run / Stage.LOAD / "weights.safetensors", run / Stage.GOLDEN / "golden.npz", graphs)[1]


def reduced(run: Path, **spoiled: Path) -> Mismatch:
    clue = clue_of(run, **spoiled)
    assert clue is not None
    found = reduce(clue)
    assert found is not None
    return found


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(("name", "op", "number", "fault", "module"), PLACES)
def test_a_fault_of_one_node_is_that_node(
    runs: Runs, tmp_path: Path, stage: str, name: str, op: str, number: int, fault: Plant, module: str
) -> None:
    run = runs(name)
    tensor = faults.plant(run / stage / "model.onnx", tmp_path / "spoiled.onnx", op, number, fault)
    found = reduced(run, **{stage: tmp_path / "spoiled.onnx"})
    assert [node.output[0] for node in found.excerpt.nodes] == [found.tensor] == [tensor]
    assert len(found.expected) == len(found.got) == 1, "one case is enough"
    onnx.checker.check_model(found.excerpt.model, full_check=True)
    if stage == "export":
        assert found.origin == f"what the PyTorch module {module} makes in FP64"
    else:
        assert found.origin == f"the tensor {tensor} of the graph of {STAGES[STAGES.index(stage) - 1]}"
    mends(found, run / stage / "model.onnx")


def mends(found: Mismatch, sound: Path) -> None:
    """The same node of the sound graph, fed with the same, gives what is expected: so it is no wild guess."""
    model = onnx.load(sound)
    (node,) = (node for node in model.graph.node if node.output[0] == found.tensor)
    weights = [weight for weight in model.graph.initializer if weight.name in node.input]
    alone = onnx.helper.make_graph(
        [node], "alone", found.excerpt.model.graph.input, found.excerpt.model.graph.output, weights
    )
    given = found.excerpt.inputs
    if not set(node.input) <= {*given, *(weight.name for weight in weights)}:
        return  # the fault was in what it reads
    whole = onnx.helper.make_model(alone, opset_imports=model.opset_import, ir_version=model.ir_version)
    (got,) = ort_trace.run_outputs(whole, [found.tensor], given)
    assert relative_error(got, found.expected) <= found.tolerated


def test_a_tensor_that_the_graph_before_does_not_name_takes_the_nodes_to_one_it_does(
    runs: Runs, tmp_path: Path
) -> None:
    run = runs("tiny")
    faults.plant(run / "fp16" / "model.onnx", tmp_path / "spoiled.onnx", "Gemm", 0, faults.drop_bias)
    found = reduced(run, halve=tmp_path / "spoiled.onnx")
    assert [node.op_type for node in found.excerpt.nodes] == ["Gemm", "Cast"]
    assert found.origin == "the tensor logits of the graph of simplify"


@pytest.mark.parametrize("stage", STAGES)
def test_a_layer_that_is_gone_leaves_the_node_behind_the_gap(runs: Runs, tmp_path: Path, stage: str) -> None:
    run = runs("tiny")
    faults.plant(run / stage / "model.onnx", tmp_path / "spoiled.onnx", "Relu", 0, faults.bypass)
    found = reduced(run, **{stage: tmp_path / "spoiled.onnx"})
    assert [node.op_type for node in found.excerpt.nodes] == ["Conv"]


def test_the_dynamo_exporters_graphs_reduce_too(runs: Runs, tmp_path: Path) -> None:
    run = runs("shufflenet_g3_x0_25", "dynamo")
    for stage in STAGES:
        faults.plant(run / stage / "model.onnx", tmp_path / "spoiled.onnx", "Conv", 1, faults.scale_filter)
        assert 1 <= len(reduced(run, **{stage: tmp_path / "spoiled.onnx"}).excerpt.nodes) <= 3


def test_a_sound_run_gives_no_clue(runs: Runs) -> None:
    assert clue_of(runs("tiny")) is None


def test_noise_without_a_layer_takes_the_nodes_that_make_it(runs: Runs) -> None:
    """FP16 is too coarse for this model as a whole: fed with right values, fewer nodes show less and less of it."""
    run = runs("mobilenet_v1_025")
    graphs = [(stage, run / stage / "model.onnx") for stage in STAGES]
    files = (run / "load" / "weights.safetensors", run / "golden" / "golden.npz")
    sound, _ = locate(*files, graphs)
    wanted = {"fp16": 0.9 * sound.comparisons[-1].checks[0].parity.max_error}
    _, clue = locate(*files, graphs, wanted)
    assert clue is not None
    found = reduce(clue)
    assert found is not None
    whole = len(onnx.load(run / "fp16" / "model.onnx").graph.node)
    assert 1 < len(found.excerpt.nodes) <= whole
    assert found.tensor == "logits"
    assert found.origin == "the tensor logits of the graph of simplify"
    assert found.error > found.tolerated == wanted["fp16"]


def test_what_the_optimiser_does_is_reduced_to_what_it_takes(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if ONNX Runtime fused a convolution and the Relu behind it wrongly, and only when it optimises."""
    run, real = runs("tiny"), ort_trace.run_outputs

    def wrong(model: onnx.ModelProto, names: Sequence[str], inputs: Arrays, *, optimised: bool = False) -> list[Any]:
        broken = onnx.ModelProto()
        broken.CopyFrom(model)
        makers = {node.output[0]: node for node in broken.graph.node}
        for node in broken.graph.node:
            if optimised and node.op_type == "Relu" and node.input[0] in makers:
                node.op_type = "Neg"
        return real(broken, names, inputs)

    clue = clue_of(run)
    assert clue is None
    faults.plant(run / "simplify" / "model.onnx", tmp_path / "spoiled.onnx", "Conv", 1, faults.scale_filter)
    other = clue_of(run, simplify=tmp_path / "spoiled.onnx")
    assert other is not None
    drawn = dataclasses.replace(other.drawn, strayed=None, wrong=frozenset())
    clue = dataclasses.replace(other, graph=run / "simplify" / "model.onnx", drawn=drawn)
    assert reduce(dataclasses.replace(clue, tolerated=10.0)) is None
    monkeypatch.setattr(ort_trace, "run_outputs", wrong)
    found = reduce(clue)
    assert found is not None
    assert [node.op_type for node in found.excerpt.nodes] == ["Conv", "Relu"]
    assert found.origin == "the same graph with ONNX Runtime's optimisation switched off"
    np.testing.assert_array_equal(np.maximum(-found.got, 0), found.expected)
