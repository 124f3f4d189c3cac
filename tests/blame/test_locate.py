from __future__ import annotations

from collections import Counter
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
from tests.blame.conftest import MODELS, Runs
from tests.blame.faults import Plant

STAGES = (Stage.EXPORT, Stage.SIMPLIFY, Stage.FP16)
ON_WEIGHTS = (faults.scale_filter, faults.zero_channel, faults.permute_channels, faults.drop_bias)
# model, kind of node, which of them, kind of module, fault
Place = tuple[str, str, int, str, Plant]
PLACES: list[Place] = [
    ("tiny", "Conv", 1, "Conv2d", faults.permute_channels),
    ("tiny", "Conv", 2, "Conv2d", faults.move_padding),
    ("tiny", "Conv", 2, "Conv2d", faults.flip_kernel),
    ("tiny", "Relu", 1, "ReLU", faults.forget),
    *(("shufflenet_g3_x0_25", "Conv", 20, "Conv2d", fault) for fault in ON_WEIGHTS),
    *(("shufflenet_g3_x0_25", "Conv", at, "Conv2d", faults.move_padding) for at in (0, 2)),
    *(("shufflenet_g3_x0_25", "Transpose", at, "ChannelShuffle", faults.do_not_shuffle) for at in (0, 15)),
    *(("shufflenet_g3_x0_25", "Relu", at, "ReLU", faults.forget) for at in (0, 16)),
    ("shufflenet_g3_x0_25", "Relu", 16, "ReLU", faults.bypass),
    *(("mobilenet_v1_025", "Conv", 13, "Conv2d", fault) for fault in (*ON_WEIGHTS, faults.flip_kernel)),
    ("mobilenet_v1_025", "Relu", 13, "ReLU", faults.forget),
    ("mobilenet_v1_025", "Relu", 13, "ReLU", faults.bypass),
    *(("mobilenet_v1_025", "Gemm", 0, "Linear", fault) for fault in (faults.scale_filter, faults.drop_bias)),
]


def blamed(run: Path, **spoiled: Path) -> Blame:
    return held(run, {}, spoiled)


def held(run: Path, tolerance: Mapping[str, float], spoiled: Mapping[str, Path]) -> Blame:
    graphs = [(stage, spoiled.get(stage, run / stage / "model.onnx")) for stage in STAGES]
    return locate(run / Stage.LOAD / "weights.safetensors", run / Stage.GOLDEN / "golden.npz", graphs, tolerance)[0]


@pytest.mark.parametrize(
    ("name", "exporter", "seed"),
    [
        *((name, exporter, 0) for name in MODELS for exporter in ("torchscript", "dynamo")),
        *(("tiny", "torchscript", seed) for seed in (1, 2, 3)),
        *((name, "torchscript", 3) for name in ("shufflenet_g3_x0_25", "mobilenet_v1_025")),
    ],
)
def test_a_clean_run_blames_nobody(runs: Runs, name: str, exporter: str, seed: int) -> None:
    found = blamed(runs(name, exporter, seed))
    assert found.finding is None
    assert found.cases == (0, 1)
    for comparison in found.comparisons:
        assert comparison.layers
        assert all(layer.error <= layer.noise_floor for layer in comparison.layers if layer.error is not None)


def test_a_fault_that_shows_at_an_edge_alone_is_found_there(runs: Runs, tmp_path: Path) -> None:
    run, spoiled = runs("tiny"), tmp_path / "model.onnx"
    graph = onnx.load(run / "simplify" / "model.onnx")
    (image,) = (each.name for each in graph.graph.input)
    for node in graph.graph.node:
        node.input[:] = ["clipped" if name == image else name for name in node.input]
    limits = [
        onnx.helper.make_tensor(name, onnx.TensorProto.FLOAT, [], [at]) for name, at in (("low", -9), ("high", 9))
    ]
    graph.graph.initializer.extend(limits)
    graph.graph.node.insert(0, onnx.helper.make_node("Clip", [image, "low", "high"], ["clipped"]))
    onnx.save(graph, spoiled)
    found, sample = blamed(run, simplify=spoiled), golden.read(run / "golden" / "golden.npz")
    assert found.finding is not None
    assert (found.finding.stage, found.finding.against) == ("simplify", "FP64 at loud")
    assert [sample.edges[case - len(sample.labels)].name for case in found.cases] == ["loud"]


def test_fp16_that_is_too_coarse_as_a_whole_is_no_layers_fault(runs: Runs) -> None:
    found = held(runs("mobilenet_v1_025"), {"fp16": 1e-4}, {}).finding
    assert found is not None
    assert (found.stage, found.layer, found.worst_input) == ("fp16", None, None)


def test_a_fault_far_below_the_rounding_of_fp16_is_found_in_its_layer(runs: Runs, tmp_path: Path) -> None:
    run = runs("shufflenet_g3_x0_25")
    culprit = faults.calls(run / "load" / "weights.safetensors", "Conv2d")[20]
    tensor = faults.plant(run / "fp16" / "model.onnx", tmp_path / "spoiled.onnx", "Conv", 20, faults.nudge_filter)
    found = blamed(run, halve=tmp_path / "spoiled.onnx")
    assert found.finding is not None
    assert found.finding.against == "the graph before with its weights in FP16"
    assert found.finding.layer is not None
    assert found.finding.layer.tensor == tensor
    assert found.finding.module in culprit


def test_a_planted_fault_is_blamed_on_its_comparison_and_its_layer(runs: Runs, tmp_path: Path) -> None:
    score: Counter[str] = Counter()
    missed = []
    for name, op, number, kind, fault in PLACES:
        run = runs(name)
        culprit = faults.calls(run / "load" / "weights.safetensors", kind)[number]
        for stage in STAGES:
            spoiled = tmp_path / "spoiled.onnx"
            faults.plant(run / stage / "model.onnx", spoiled, op, number, fault)
            found = blamed(run, **{stage: spoiled}).finding
            assert found is not None, (name, op, number, fault.__name__, stage)
            score.update(plants=1, comparison=found.stage == stage, layer=found.module in culprit)
            if found.module not in culprit:
                missed.append((name, op, number, fault.__name__, stage, found.module))
    assert score["plants"] == 72
    assert score["comparison"] == score["plants"]
    assert score["layer"] >= 0.95 * score["plants"], missed
    assert {(place[3], place[4]) for place in missed} == {("bypass", "export")}, "seen at what reads the gap"


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    ("op", "number", "kind", "fault"),
    [
        ("Conv", 3, "Conv2d", faults.scale_filter),
        ("Conv", 30, "Conv2d", faults.drop_bias),
        ("Relu", 5, "ReLU", faults.forget),
        ("Transpose", 3, "ChannelShuffle", faults.do_not_shuffle),
    ],
)
def test_the_other_exporters_layers_are_named_too(
    runs: Runs, tmp_path: Path, stage: str, op: str, number: int, kind: str, fault: Plant
) -> None:
    run = runs("shufflenet_g3_x0_25", "dynamo")
    faults.plant(run / stage / "model.onnx", tmp_path / "spoiled.onnx", op, number, fault)
    found = blamed(run, **{stage: tmp_path / "spoiled.onnx"}).finding
    assert found is not None
    assert found.stage == stage
    assert found.module in faults.calls(run / "load" / "weights.safetensors", kind)[number]


@pytest.mark.parametrize("stage", STAGES)
def test_the_finding_says_how_large_the_error_is_there_and_before(runs: Runs, tmp_path: Path, stage: str) -> None:
    run = runs("tiny")
    tensor = faults.plant(run / stage / "model.onnx", tmp_path / "spoiled.onnx", "Conv", 1, faults.scale_filter)
    found = blamed(run, **{stage: tmp_path / "spoiled.onnx"}).finding
    assert found is not None
    assert found.layer is not None
    assert found.worst_input is not None
    assert (found.layer.tensor, found.layer.op) == (tensor, "Conv")
    assert found.layer.error is not None
    assert found.layer.error > 100 * found.layer.noise_floor
    assert found.worst_input.error is not None
    assert found.worst_input.error <= found.worst_input.noise_floor
    assert not found.lost


@pytest.mark.parametrize("stage", ["simplify", "fp16"])
def test_a_layer_that_is_gone_is_named_by_what_the_graph_before_has(runs: Runs, tmp_path: Path, stage: str) -> None:
    run = runs("tiny")
    faults.plant(run / stage / "model.onnx", tmp_path / "spoiled.onnx", "Relu", 0, faults.bypass)
    found = blamed(run, **{stage: tmp_path / "spoiled.onnx"}).finding
    assert found is not None
    assert found.layer is not None
    assert (found.module, found.lost, found.layer.module) == ("stem.2", True, "grouped.0")


def test_what_is_no_number_is_found_where_it_begins(runs: Runs, tmp_path: Path) -> None:
    run = runs("tiny")
    faults.plant(run / "fp16" / "model.onnx", tmp_path / "spoiled.onnx", "Conv", 1, faults.overflow)
    found = blamed(run, halve=tmp_path / "spoiled.onnx")
    assert found.finding is not None
    assert (found.finding.stage, found.finding.module) == ("fp16", "grouped.0")
    assert serde.text(found)
