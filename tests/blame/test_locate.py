"""Locating planted faults: the graph, the layer and the module, with both exporters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx
import pytest

from deploytool import serde
from deploytool.blame.locate import locate
from deploytool.data import golden
from deploytool.results.blame import Blame
from deploytool.spec import Stage
from tests.blame import faults
from tests.blame.conftest import MODELS, MakeRun
from tests.blame.faults import Plant

STAGES = (Stage.EXPORT, Stage.SIMPLIFY, Stage.FP16)
ON_WEIGHTS = (faults.scale_filter, faults.zero_channel, faults.permute_channels, faults.drop_bias)
# model, operator, index among the nodes of that operator, module type, fault
PlantedFault = tuple[str, str, int, str, Plant]
PLANTED_FAULTS: list[PlantedFault] = [
    ("tiny", "Conv", 1, "Conv2d", faults.permute_channels),
    ("tiny", "Conv", 2, "Conv2d", faults.move_padding),
    ("tiny", "Conv", 2, "Conv2d", faults.flip_kernel),
    ("tiny", "Relu", 1, "ReLU", faults.replace_by_identity),
    *(("shufflenet_g3_x0_25", "Conv", 20, "Conv2d", fault) for fault in ON_WEIGHTS),
    *(("shufflenet_g3_x0_25", "Conv", index, "Conv2d", faults.move_padding) for index in (0, 2)),
    *(("shufflenet_g3_x0_25", "Transpose", index, "ChannelShuffle", faults.drop_permutation) for index in (0, 15)),
    *(("shufflenet_g3_x0_25", "Relu", index, "ReLU", faults.replace_by_identity) for index in (0, 16)),
    ("shufflenet_g3_x0_25", "Relu", 16, "ReLU", faults.bypass),
    *(("mobilenet_v1_025", "Conv", 13, "Conv2d", fault) for fault in (*ON_WEIGHTS, faults.flip_kernel)),
    ("mobilenet_v1_025", "Relu", 13, "ReLU", faults.replace_by_identity),
    ("mobilenet_v1_025", "Relu", 13, "ReLU", faults.bypass),
    *(("mobilenet_v1_025", "Gemm", 0, "Linear", fault) for fault in (faults.scale_filter, faults.drop_bias)),
]


def blame(run: Path, **faulty: Path) -> Blame:
    """Locates the fault in a run, with the `faulty` graphs (by stage) instead of its own."""
    return blame_with_tolerance(run, {}, faulty)


def blame_with_tolerance(run: Path, tolerance: Mapping[str, float], faulty: Mapping[str, Path]) -> Blame:
    graphs = [(stage, faulty.get(stage, run / stage / "model.onnx")) for stage in STAGES]
    return locate(run / Stage.LOAD / "weights.safetensors", run / Stage.GOLDEN / "golden.npz", graphs, tolerance)[0]


@pytest.mark.parametrize(
    ("name", "exporter", "seed"),
    [
        *((name, "torchscript", 0) for name in MODELS),
        ("shufflenet_g3_x0_25", "dynamo", 0),
        ("tiny", "torchscript", 1),
        *(pytest.param(name, "dynamo", 0, marks=pytest.mark.sweep) for name in ("tiny", "mobilenet_v1_025")),
        *(pytest.param("tiny", "torchscript", seed, marks=pytest.mark.sweep) for seed in (2, 3)),
        *(pytest.param(name, "torchscript", 3, marks=pytest.mark.sweep) for name in MODELS if name != "tiny"),
    ],
)
def test_a_correct_run_has_no_finding(runs: MakeRun, name: str, exporter: str, seed: int) -> None:
    result = blame(runs(name, exporter, seed))
    assert result.finding is None
    assert result.cases == (0, 1)
    for comparison in result.comparisons:
        assert comparison.layers
        assert all(layer.error <= layer.noise_floor for layer in comparison.layers if layer.error is not None)


def test_a_fault_that_shows_at_an_edge_case_only_is_found(runs: MakeRun, tmp_path: Path) -> None:
    run, faulty = runs("tiny"), tmp_path / "model.onnx"
    graph = onnx.load(run / "simplify" / "model.onnx")
    (image,) = (value.name for value in graph.graph.input)
    for node in graph.graph.node:
        node.input[:] = ["clipped" if name == image else name for name in node.input]
    limits = [
        onnx.helper.make_tensor(name, onnx.TensorProto.FLOAT, [], [limit]) for name, limit in (("low", -9), ("high", 9))
    ]
    graph.graph.initializer.extend(limits)
    graph.graph.node.insert(0, onnx.helper.make_node("Clip", [image, "low", "high"], ["clipped"]))
    onnx.save(graph, faulty)
    result, sample = blame(run, simplify=faulty), golden.read(run / "golden" / "golden.npz")
    assert result.finding is not None
    assert (result.finding.stage, result.finding.against) == ("simplify", "FP64 at loud")
    assert [sample.edges[case - len(sample.labels)].name for case in result.cases] == ["loud"]


def test_fp16_noise_beyond_the_tolerance_blames_no_layer(runs: MakeRun) -> None:
    finding = blame_with_tolerance(runs("mobilenet_v1_025"), {"fp16": 1e-4}, {}).finding
    assert finding is not None
    assert (finding.stage, finding.layer, finding.worst_input) == ("fp16", None, None)


def test_a_fault_far_below_fp16_rounding_is_found_in_its_layer(runs: MakeRun, tmp_path: Path) -> None:
    run = runs("shufflenet_g3_x0_25")
    expected = faults.modules_in_call_order(run / "load" / "weights.safetensors", "Conv2d")[20]
    tensor = faults.plant(run / "fp16" / "model.onnx", tmp_path / "faulty.onnx", "Conv", 20, faults.nudge_filter)
    finding = blame(run, fp16=tmp_path / "faulty.onnx").finding
    assert finding is not None
    assert finding.against == "the graph before with its weights in FP16"
    assert finding.layer is not None
    assert finding.layer.tensor == tensor
    assert finding.module in expected


@pytest.mark.parametrize(("step", "planted", "missed"), [(4, 18, 0), pytest.param(1, 72, 2, marks=pytest.mark.sweep)])
def test_planted_faults_are_located_in_their_graph_and_layer(
    step: int, planted: int, missed: int, runs: MakeRun, tmp_path: Path
) -> None:
    """Every fourth of all faults in all graphs has every kind of fault, model and graph in it."""
    cases = [(fault, stage) for fault in PLANTED_FAULTS for stage in STAGES][::step]
    assert len(cases) == planted
    elsewhere = []
    for (name, op, number, kind, fault), stage in cases:
        run, faulty = runs(name), tmp_path / "faulty.onnx"
        faults.plant(run / stage / "model.onnx", faulty, op, number, fault)
        finding = blame(run, **{stage: faulty}).finding
        assert finding is not None, (name, op, number, fault.__name__, stage)
        assert finding.stage == stage
        if finding.module not in faults.modules_in_call_order(run / "load" / "weights.safetensors", kind)[number]:
            elsewhere.append((fault.__name__, stage))
    assert elsewhere == [("bypass", "export")] * missed, "located one node later"


@pytest.mark.parametrize(
    ("stage", "op", "number", "kind", "fault"),
    [
        ("export", "Conv", 3, "Conv2d", faults.scale_filter),
        ("fp16", "Conv", 30, "Conv2d", faults.drop_bias),
        ("simplify", "Relu", 5, "ReLU", faults.replace_by_identity),
        ("export", "Transpose", 3, "ChannelShuffle", faults.drop_permutation),
    ],
)
def test_faults_in_graphs_of_the_dynamo_exporter_are_located(
    runs: MakeRun, tmp_path: Path, stage: str, op: str, number: int, kind: str, fault: Plant
) -> None:
    run = runs("shufflenet_g3_x0_25", "dynamo")
    faults.plant(run / stage / "model.onnx", tmp_path / "faulty.onnx", op, number, fault)
    finding = blame(run, **{stage: tmp_path / "faulty.onnx"}).finding
    assert finding is not None
    assert finding.stage == stage
    assert finding.module in faults.modules_in_call_order(run / "load" / "weights.safetensors", kind)[number]


@pytest.mark.parametrize("stage", STAGES)
def test_the_finding_has_the_errors_of_the_layer_and_its_input(runs: MakeRun, tmp_path: Path, stage: str) -> None:
    run = runs("tiny")
    tensor = faults.plant(run / stage / "model.onnx", tmp_path / "faulty.onnx", "Conv", 1, faults.scale_filter)
    finding = blame(run, **{stage: tmp_path / "faulty.onnx"}).finding
    assert finding is not None
    assert finding.layer is not None
    assert finding.worst_input is not None
    assert (finding.layer.tensor, finding.layer.op) == (tensor, "Conv")
    assert finding.layer.error is not None
    assert finding.layer.error > 100 * finding.layer.noise_floor
    assert finding.worst_input.error is not None
    assert finding.worst_input.error <= finding.worst_input.noise_floor
    assert not finding.lost


@pytest.mark.parametrize("stage", ["simplify", "fp16"])
def test_a_removed_layer_is_named_from_the_previous_graph(runs: MakeRun, tmp_path: Path, stage: str) -> None:
    run = runs("tiny")
    faults.plant(run / stage / "model.onnx", tmp_path / "faulty.onnx", "Relu", 0, faults.bypass)
    finding = blame(run, **{stage: tmp_path / "faulty.onnx"}).finding
    assert finding is not None
    assert finding.layer is not None
    assert (finding.module, finding.lost, finding.layer.module) == ("stem.2", True, "grouped.0")


def test_an_infinite_value_is_located_where_it_is_produced(runs: MakeRun, tmp_path: Path) -> None:
    run = runs("tiny")
    faults.plant(run / "fp16" / "model.onnx", tmp_path / "faulty.onnx", "Conv", 1, faults.overflow)
    result = blame(run, fp16=tmp_path / "faulty.onnx")
    assert result.finding is not None
    assert (result.finding.stage, result.finding.module) == ("fp16", "grouped.0")
    assert serde.text(result)
