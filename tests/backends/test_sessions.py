"""Every backend that runs here, on the artifacts of one finished run."""

from __future__ import annotations

import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import onnx.parser
import onnxruntime as ort
import pytest
import torch

from deploytool.backends import eager, onnxruntime
from deploytool.backends.session import load_backend
from deploytool.benchmark import interleave
from deploytool.data import golden
from deploytool.errors import MissingBackend, StageFailed
from deploytool.loading import weights_file
from tests.conftest import TINY

RUNS = {
    "eager": "load/weights.safetensors",
    "torchscript": "torchscript/model.pt",
    "onnxruntime": "simplify/model.onnx",
    "reference": "simplify/model.onnx",
}


@pytest.mark.parametrize("name", RUNS)
def test_a_backend_answers_as_the_model_does(finished: Path, name: str) -> None:
    sample = golden.read(finished / "golden" / "golden.npz")
    with load_backend(name).start(finished / RUNS[name]) as session:
        got = session(**sample.inputs)["logits"]
        single = session(input=sample.inputs["input"][2:3])["logits"]
    np.testing.assert_allclose(got, sample.reference["logits"], atol=1e-5)
    np.testing.assert_allclose(single, got[2:3], atol=1e-5)
    assert got.dtype == np.float32


@pytest.mark.parametrize("name", RUNS)
def test_a_backend_names_its_version(name: str) -> None:
    library, version = load_backend(name).fingerprint().split()
    assert library.split(".")[0] in {"torch", "onnxruntime", "onnx"}
    assert version[0].isdecimal()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("name", RUNS)
def test_cuda_without_a_gpu_is_an_error_and_no_silent_fall_back(finished: Path, name: str) -> None:
    with pytest.raises(MissingBackend), load_backend(name).start(finished / RUNS[name], "cuda"):
        pass


def test_a_session_that_fell_back_is_refused(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = ort.InferenceSession
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    monkeypatch.setattr(ort, "InferenceSession", lambda path, options, providers: real(path))
    with pytest.raises(MissingBackend, match="it fell back to CPUExecutionProvider"):
        onnxruntime._session(finished / RUNS["onnxruntime"], "cuda")


@pytest.mark.parametrize(("op", "lost"), [("Identity", None), ("Relu", "it leaves 1 nodes to the CPU, Relu")])
def test_only_work_on_shapes_may_be_left_to_the_cpu(op: str, lost: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(onnxruntime._PROVIDER, "cuda", "CPUExecutionProvider")  # a GPU that leaves all to the CPU
    monkeypatch.setitem(onnxruntime._SETTINGS, "cuda", {})
    text = """<ir_version: 10, opset_import: ["" : 18]> graph (float[N, M] x) => (float[K, L] y)
        { dims = Shape(x)  z = OP(x)  y = Reshape(z, dims) }""".replace("OP", op)
    graph = onnx.parser.parse_model(text).SerializeToString()
    given = np.array([[1.0, 2.0]], np.float32)
    with pytest.raises(MissingBackend, match=lost) if lost else nullcontext(), onnxruntime.start(graph, "cuda") as run:
        assert run(x=given)["y"].tolist() == given.tolist()


def test_threads_of_onnx_runtime_sleep_after_a_run(finished: Path) -> None:
    """By themselves they would spin for some tens of milliseconds, and keep a rival from its processors."""
    inputs = {"input": np.zeros((256, 3, 32, 32), np.float32)}
    with onnxruntime.start(finished / RUNS["onnxruntime"], threads=2) as session:
        for _ in range(3):
            interleave.wait_for_idle_threads()
            session(**inputs)
            time.sleep(0.002)
            assert not interleave._others_work()


def test_garbage_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(b"garbage")
    with (
        pytest.raises(StageFailed, match=r"ONNX Runtime refuses .*model.onnx"),
        onnxruntime.start(file),
    ):
        pass


def test_a_weights_file_is_the_whole_model(finished: Path) -> None:
    path = finished / RUNS["eager"]
    assert weights_file.definition(path) == TINY
    assert not eager.load_module(path).training
    assert not any(parameter.requires_grad for parameter in eager.load_module(path).parameters())


def test_tf32_is_off_while_a_session_runs(finished: Path) -> None:
    before = torch.backends.cudnn.allow_tf32
    for name in ("eager", "torchscript"):
        with load_backend(name).start(finished / RUNS[name]):
            assert not torch.backends.cudnn.allow_tf32
        assert torch.backends.cudnn.allow_tf32 == before


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["eager", "torchscript", "onnxruntime"])
def test_a_backend_answers_the_same_on_cuda(finished: Path, name: str) -> None:
    sample = golden.read(finished / "golden" / "golden.npz")
    with load_backend(name).start(finished / RUNS[name], "cuda") as session:
        np.testing.assert_allclose(session(**sample.inputs)["logits"], sample.reference["logits"], atol=1e-5)
