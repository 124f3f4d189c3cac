"""Small constants that FP16 cannot represent are found, and their nodes kept in FP32; others are not."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from deploytool.backends import fp16_emulation
from deploytool.backends.narrow_floats import FP16
from deploytool.cli import params
from deploytool.loading import catalog
from deploytool.pipeline import runner
from deploytool.precision import fp16, small_constants
from deploytool.precision.conversion import Conversion
from deploytool.results import report, verdict
from deploytool.results.report import Report
from deploytool.spec import Job
from tests.conftest import QUICK
from tests.user_model_export import OWN, WITHOUT_ENGINE, Walk
from tests.user_models import small_epsilons

HARMED = ("LogOfClamped", "Decibel", "LogOfMore", "InverseRoot", "Similar")
FOUND = (*HARMED, "Normalised", "DividedByNorm", "Standardised", "GeneralisedMean", "SmallVariance")
LIMIT = 1e-2
Inputs = dict[str, np.ndarray]

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


def cases() -> Inputs:
    """Usual inputs, silence, a constant, one sample, a padded tail and a quiet input."""
    usual = np.random.default_rng(0).normal(size=(6, small_epsilons.WIDTH)).astype(np.float32)
    usual[1], usual[2], usual[3] = 0, 1, 0
    usual[3, 5], usual[4, 8:] = 1, 0
    usual[5] *= 1e-4
    return {"sound": usual}


def exported(name: str, folder: Path) -> tuple[onnx.ModelProto, np.ndarray]:
    """The graph, and the answers of the model in FP64."""
    module, made = getattr(small_epsilons, name)().eval(), folder / "single.onnx"
    given = torch.from_numpy(cases()["sound"])
    torch.onnx.export(
        module,
        (given,),
        made,
        input_names=["sound"],
        dynamic_axes={"sound": {0: "batch"}},
        opset_version=18,
        dynamo=False,
        training=torch.onnx.TrainingMode.PRESERVE,
    )
    with torch.no_grad():
        return onnx.load(made), module.double()(given.double()).numpy()


def error(graph: onnx.ModelProto, truth: np.ndarray) -> float:
    """The largest error in FP16 arithmetic and in ONNX Runtime, over the largest answer to a usual input."""
    (emulated,) = fp16_emulation.run_with_range(graph, cases())[0].values()
    session = ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    apart = [np.abs(got - truth).max() for got in (emulated, session.run(None, cases())[0])]
    return float(np.max(np.nan_to_num(apart, nan=np.inf)) / np.abs(truth).max())


def kept(conversion: Conversion) -> list[str]:
    names = [node.name for node in conversion.nodes]
    return [node for guard in small_constants.find(conversion.single, names, FP16) for node in guard.around]


@pytest.mark.parametrize("name", [*FOUND, "LayerNorm"])
def test_with_its_small_constant_in_fp32_a_graph_is_accurate_at_silence(name: str, tmp_path: Path) -> None:
    single, truth = exported(name, tmp_path)
    conversion = fp16.convert(single, keep_io=True)
    assert error(conversion.keeping(kept(conversion)), truth) < LIMIT
    heavy = [node.name for node in conversion.nodes if node.op_type in ("MatMul", "Gemm")]
    assert len(heavy) == 2
    assert not set(heavy) & set(kept(conversion))
    assert bool(kept(conversion)) is (name in FOUND)


@pytest.mark.parametrize("name", HARMED)
def test_with_its_small_constant_in_fp16_the_graph_is_wrong(name: str, tmp_path: Path) -> None:
    single, truth = exported(name, tmp_path)
    assert error(fp16.convert(single, keep_io=True).half, truth) > LIMIT


def test_an_epsilon_that_fp16_represents_is_not_found(tmp_path: Path) -> None:
    single, truth = exported("UsualEpsilon", tmp_path)
    conversion = fp16.convert(single, keep_io=True)
    assert kept(conversion) == []
    assert error(conversion.half, truth) < LIMIT


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_a_model_with_a_small_constant_passes_the_whole_pipeline(exporter: str, walk: Walk) -> None:
    written = walk("small_epsilons:LogOfClamped", ["sound=16"], exporter)
    assert verdict.failed_lines(written) == ()
    assert any("FP16 cannot represent 1e-10: the " in line and "stay in FP32" in line for line in written.remarks)
    halves = [comparison for comparison in written.comparisons if comparison.stage == "fp16"]
    assert all(
        "FP64 at silence" in [check.against for check in comparison.checks] for comparison in (halves[0], halves[-1])
    )


@pytest.mark.integration
def test_the_search_repairs_a_model_whose_fp16_fails_at_silence(tmp_path: Path) -> None:
    """The remedy of the first run, `--keep-fp32 auto`, evaluates the same edge cases."""
    model = catalog.find(f"{OWN / 'small_epsilons.py'}:Learned", params.tensors(["sound=16"]))

    def gone(*keep: str) -> Report:
        job = Job(model, dataclasses.replace(QUICK, seconds=0.0, keep_fp32=keep))
        return report.read(list(runner.run(job, WITHOUT_ENGINE, tmp_path / "run"))[-1].path)

    first = gone()
    assert {line.split(":")[0] for line in verdict.failed_lines(first)} >= {"fp16 against FP64 at silence"}
    assert {line.split(" ")[0] for line in verdict.failed_lines(first)} == {"fp16"}
    assert verdict.keep_fp32_may_help(first)
    assert verdict.failed_lines(gone("auto")) == ()
