"""Tests that correct models with long reductions pass with either exporter, and that small errors in them fail."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import deploytool
from deploytool.backends import onnxruntime
from deploytool.data import golden
from deploytool.parity import metrics
from deploytool.parity.replay import replay
from tests.user_model_export import OWN
from tests.user_models.long_sums import HEADS

SIDES = {"pooled": 128, "mean": 96, "instance norm": 48, "gram": 96, "attended": 32, "convnext": 40}  # others: 64
REJECTED = {("headed", "torchscript"), ("cosine similarity", "torchscript")}  # by exporter or converter
DEVIATING = ("mean of rows of means",)  # onnxsim fuses both means, and `folded` makes a less accurate global pooling
OFTEN = (  # a head of each kind of reduction; `make test-all` runs the others too
    *("mean", "mean of rows of means", "mean and deviation", "unit channels", "log of sums", "softmax of places"),
    *("layer norm", "instance norm", "running sum"),
)
EXPORTS = [(head, "torchscript") for head in HEADS if (head, "torchscript") not in REJECTED]
EXPORTS += [(head, "dynamo") for head in ("mean and deviation", "gram", "headed")]
OFTEN_EXPORTED = [*((head, "torchscript") for head in OFTEN), ("headed", "dynamo")]


def exported(head: str, out: Path, exporter: str = "torchscript", seed: int = 0) -> deploytool.Run:
    side = SIDES.get(head, 64)
    return deploytool.export(
        f"{OWN}/long_sums.py:make",
        arguments={"head": head, "seed": seed, "side": side},
        inputs=[(3, side, side)],
        quick=True,
        to="onnx",
        images=6,
        exporter=exporter,
        out=out,
    )


@pytest.mark.parametrize(
    ("head", "exporter"),
    [pytest.param(*export, marks=() if export in OFTEN_EXPORTED else pytest.mark.sweep) for export in EXPORTS],
)
def test_a_correct_model_passes(head: str, exporter: str, tmp_path: Path) -> None:
    run = exported(head, tmp_path / "run", exporter)
    assert run.error is None
    assert not any("noise without" in remark for remark in run.report.remarks)
    assert head in DEVIATING or "rewrite: original: folded failed" not in run.report.remarks


def test_an_audio_model_passes(tmp_path: Path) -> None:
    run = deploytool.export(
        f"{OWN}/long_sums.py:hearing", inputs=[(1, 16000)], quick=True, to="onnx", out=tmp_path / "run"
    )
    assert run.error is None


@pytest.mark.parametrize("head", ["pooled", "gram", "excited", "attended", "convnext"])
def test_a_small_error_in_the_weights_is_detected(head: str, tmp_path: Path) -> None:
    """The model passes, and fails with the first convolution scaled by 1.001 or a weight of the classifier zeroed."""
    assert exported(head, tmp_path / "run").error is None
    sample = golden.read(tmp_path / "run" / "golden" / "golden.npz")
    tolerance = metrics.tolerances(sample.noise, {}).fp32
    correct = onnx.load(tmp_path / "run" / "simplify" / "model.onnx")
    for fault in ("scaled", "lost"):
        faulty = onnx.ModelProto()
        faulty.CopyFrom(correct)
        ranks = {"scaled": 4, "lost": 2}
        weight = next(tensor for tensor in faulty.graph.initializer if len(tensor.dims) == ranks[fault])
        values = numpy_helper.to_array(weight).copy()
        if fault == "scaled":
            values *= np.float32(1.001)
        else:
            values.flat[np.abs(values).argmax()] = 0
        weight.CopyFrom(numpy_helper.from_array(values, weight.name))
        with onnxruntime.start(faulty.SerializeToString()) as session:
            outputs = replay(session, sample.inputs)
        assert metrics.check(outputs, sample.reference, "FP64", tolerance).broken, fault
