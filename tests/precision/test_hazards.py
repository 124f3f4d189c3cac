"""What FP16 would make wrong stays in FP32: internal sums, angles, positions. What saturates is no overflow."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from deploytool.backends import fp16_emulation
from deploytool.precision import fp16, hazards
from deploytool.precision.conversion import Conversion
from deploytool.results import verdict
from tests.user_model_export import Walk
from tests.user_models import internal_sums

OVERFLOWING = ("RootMeanSquare", "Centred", "MeanOfSquares", "Deviation", "Generalised", "HandMadeSoftmax", "Averaged")
SPLIT = ("Length", "Probabilities")  # one ONNX operator, which is several layers in TensorRT
SOUND = ("Usual", "Groups", "Wide", "GeluOfCubes", "Gelu")  # nothing has to stay in FP32
LIMIT = 3e-3
Arrays = dict[str, np.ndarray]

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::UserWarning", "ignore::torch.jit.TracerWarning"
)


@dataclass(frozen=True)
class Exported:
    conversion: Conversion
    truth: np.ndarray


def tokens(length: int = 96) -> Arrays:
    """Usual tokens, silence, and quiet ones."""
    usual = np.random.default_rng(0).normal(size=(4, length, internal_sums.WIDTH)).astype(np.float32)
    usual[1] = 0
    usual[2] *= 1e-2
    return {"tokens": usual}


def exported(name: str, folder: Path, length: int = 96) -> Exported:
    module, path = getattr(internal_sums, name)().eval(), folder / "single.onnx"
    given = torch.from_numpy(tokens(length)["tokens"])
    axes = {"tokens": {0: "batch", 1: "length"} if name == "Rotated" else {0: "batch"}}
    torch.onnx.export(module, (given,), path, input_names=["tokens"], dynamic_axes=axes, opset_version=18, dynamo=False)
    with torch.no_grad():
        truth = module.double()(given.double()).numpy()
    return Exported(fp16.convert(onnx.load(path), keep_io=True), truth)


def error(graph: onnx.ModelProto, truth: np.ndarray, length: int = 96) -> float:
    """The largest error in FP16 arithmetic and in ONNX Runtime, over the largest answer."""
    (emulated,) = fp16_emulation.run_with_range(graph, tokens(length))[0].values()
    session = ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    errors = [np.abs(got - truth).max() for got in (emulated, session.run(None, tokens(length))[0])]
    return float(np.max(np.nan_to_num(errors, nan=np.inf)) / np.abs(truth).max())


@pytest.mark.parametrize("name", [*OVERFLOWING, *SPLIT, *SOUND])
def test_a_norm_a_mean_or_an_activation_holds_in_fp16(name: str, tmp_path: Path) -> None:
    made = exported(name, tmp_path)
    kept = hazards.find(made.conversion).nodes
    half = made.conversion.keeping(kept)
    assert error(half, made.truth) < LIMIT
    assert fp16_emulation.run_with_range(half, tokens())[1] <= 65504
    operators = {node.name: node.op_type for node in made.conversion.nodes}
    assert not {operators[name] for name in kept} & {"MatMul", "Gemm"}
    assert bool(kept) is (name not in SOUND)


@pytest.mark.parametrize("name", OVERFLOWING)
def test_with_its_sums_in_fp16_it_overflows(name: str, tmp_path: Path) -> None:
    made = exported(name, tmp_path)
    assert (
        error(made.conversion.half, made.truth) > LIMIT
        or fp16_emulation.run_with_range(made.conversion.half, tokens())[1] > 65504
    )


@pytest.mark.parametrize(("name", "operator"), [("Length", "ReduceL2"), ("Probabilities", "LogSoftmax")])
def test_an_operator_of_several_layers_stays_in_fp32(name: str, operator: str, tmp_path: Path) -> None:
    conversion = exported(name, tmp_path).conversion
    operators = {node.name: node.op_type for node in conversion.nodes}
    assert operator in {operators[name] for name in hazards.find(conversion).nodes}


def test_angles_of_positions_stay_in_fp32(tmp_path: Path) -> None:
    made = exported("Rotated", tmp_path, length=512)
    found = hazards.find(made.conversion)
    operators = {node.name: node.op_type for node in made.conversion.nodes}
    assert {"Cos", "Sin", "Mul"} <= {operators[name] for name in found.positions}
    assert error(made.conversion.keeping(found.nodes), made.truth, 512) < LIMIT
    assert error(made.conversion.half, made.truth, 512) > 10 * LIMIT


class BestRow(torch.nn.Module):
    """The row that has the largest of all values, whose index is divided as the dynamo exporter does it."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        places = tokens.flatten(1).topk(1, 1).indices
        rows = torch.floor(places.to(tokens.dtype) / tokens.shape[2]).long()
        return tokens.gather(1, rows[..., None].expand(-1, -1, tokens.shape[2]))


def test_indices_of_a_selection_are_divided_in_fp32(tmp_path: Path) -> None:
    given, path = tokens()["tokens"], tmp_path / "single.onnx"
    given[:, 64, 31] = 10.0  # place 2079, which FP16 rounds to 2080: row 65
    torch.onnx.export(
        BestRow(), (torch.from_numpy(given),), path, input_names=["tokens"], opset_version=18, dynamo=False
    )
    conversion = fp16.convert(onnx.load(path), keep_io=True)
    kept = hazards.find(conversion).positions
    assert {node.op_type for node in conversion.nodes if node.name in kept} >= {"Div", "Floor"}
    for half, right in ((conversion.keeping(kept), True), (conversion.half, False)):
        (rows,) = fp16_emulation.run_with_range(half, {"tokens": given})[0].values()
        assert np.allclose(rows[:, 0], given[:, 64], atol=1e-2) is right


def test_an_overflow_that_a_tanh_saturates_is_judged_by_what_comes_out(tmp_path: Path) -> None:
    made = exported("GeluOfCubes", tmp_path)
    cube = next(node.output[0] for node in made.conversion.nodes if node.op_type == "Pow")
    session = ort.InferenceSession(with_output(made.conversion.single, cube), providers=["CPUExecutionProvider"])
    assert np.abs(session.run([cube], tokens())[0]).max() > 65504
    assert made.conversion.beyond(tokens()) == frozenset()


def with_output(model: onnx.ModelProto, name: str) -> bytes:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.append(onnx.ValueInfoProto(name=name))
    return bytes(copy.SerializeToString())


def test_an_overflow_that_reaches_the_output_is_found(tmp_path: Path) -> None:
    made = exported("Gated", tmp_path)
    assert hazards.find(made.conversion).nodes == frozenset()
    assert fp16_emulation.run_with_range(made.conversion.half, tokens())[1] > 65504
    assert made.conversion.beyond(tokens())


@pytest.mark.parametrize("name", ["RootMeanSquare", "GeluOfCubes"])
def test_a_model_with_large_intermediate_values_passes_the_whole_pipeline(name: str, walk: Walk) -> None:
    written = walk(f"internal_sums:{name}", ["tokens=24x32"], "torchscript", engine=False)
    assert verdict.failed_lines(written) == ()
    kept = [line for line in written.remarks if "sums in norms, means and logarithms stay in FP32: 6 nodes" in line]
    assert bool(kept) is (name == "RootMeanSquare")
