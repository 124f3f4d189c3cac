"""Every backend that runs on a CPU, on the artifacts of one finished run."""

from __future__ import annotations

import time
import weakref
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import onnx.parser
import onnxruntime as ort
import psutil
import pytest
import torch

from deploytool.backends import eager, onnxruntime
from deploytool.backends.session import Array, load_backend, until_end
from deploytool.benchmark import interleave
from deploytool.data import golden
from deploytool.errors import MissingBackend, StageFailed
from deploytool.loading import weights_file
from tests.conftest import TINY

ARTIFACTS = {
    "eager": "load/weights.safetensors",
    "torchscript": "torchscript/model.pt",
    "onnxruntime": "simplify/model.onnx",
    "openvino": "simplify/model.onnx",
    "reference": "simplify/model.onnx",
}


@pytest.mark.parametrize("name", ARTIFACTS)
def test_a_backend_has_the_outputs_of_the_model(finished: Path, name: str) -> None:
    sample = golden.read(finished / "golden" / "golden.npz")
    with load_backend(name).start(finished / ARTIFACTS[name]) as session:
        logits = session(**sample.inputs)["logits"]
        single = session(input=sample.inputs["input"][2:3])["logits"]
    np.testing.assert_allclose(logits, sample.reference["logits"], atol=1e-5)
    np.testing.assert_allclose(single, logits[2:3], atol=1e-5)
    assert logits.dtype == np.float32


@pytest.mark.parametrize("name", ARTIFACTS)
def test_a_fingerprint_has_library_and_version(name: str) -> None:
    library, version = load_backend(name).fingerprint().split()
    assert library.split(".")[0] in {"torch", "onnxruntime", "openvino", "onnx"}
    assert version[0].isdecimal()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("name", ARTIFACTS)
def test_cuda_without_a_gpu_is_an_error_not_a_fallback(finished: Path, name: str) -> None:
    with pytest.raises(MissingBackend), load_backend(name).start(finished / ARTIFACTS[name], "cuda"):
        pass


def test_a_fallback_of_onnx_runtime_is_an_error(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session_class = ort.InferenceSession
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    monkeypatch.setattr(ort, "InferenceSession", lambda path, options, providers: session_class(path))
    with pytest.raises(MissingBackend, match="CPUExecutionProvider"):
        onnxruntime._session(finished / ARTIFACTS["onnxruntime"], "cuda", ort.SessionOptions())


@pytest.mark.parametrize(("op", "error"), [("Identity", None), ("Relu", "1 nodes on the CPU, for example Relu")])
def test_only_shape_arithmetic_may_run_on_the_cpu(op: str, error: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(onnxruntime._PROVIDERS, "cuda", "CPUExecutionProvider")  # leaves every node to the CPU
    monkeypatch.setitem(onnxruntime._OPTIONS, "cuda", {})
    text = """<ir_version: 10, opset_import: ["" : 18]> graph (float[N, M] x) => (float[K, L] y)
        { dims = Shape(x)  z = OP(x)  y = Reshape(z, dims) }""".replace("OP", op)
    graph = onnx.parser.parse_model(text).SerializeToString()
    x = np.array([[1.0, 2.0]], np.float32)
    expected = pytest.raises(MissingBackend, match=error) if error else nullcontext()
    with expected, onnxruntime.start(graph, "cuda") as session:
        assert session(x=x)["y"].tolist() == x.tolist()


def test_threads_of_onnx_runtime_are_idle_after_a_run(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By default they spin for tens of milliseconds, and take processors from the next session that is timed.

    Measured by processor time: a thread that waits for a processor, as on a machine under load, uses none.
    """
    path = finished / ARTIFACTS["onnxruntime"]
    idle = _seconds_after_runs(path)
    monkeypatch.setattr(onnxruntime, "_session_options", _spinning_options)
    assert idle < _seconds_after_runs(path) / 5


def _seconds_after_runs(path: Path) -> float:
    """Processor time that the other threads of this process use in the 0.1 s after each of three runs."""
    inputs, seconds = {"input": np.zeros((256, 3, 32, 32), np.float32)}, 0.0
    with onnxruntime.start(path, threads=2) as session:
        for _ in range(3):
            interleave.wait_for_idle_threads()
            session(**inputs)
            begin = time.process_time() - time.thread_time()
            time.sleep(0.1)
            seconds += time.process_time() - time.thread_time() - begin
    return seconds


def _spinning_options(threads: int, *, optimise: bool) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    return options


def test_an_invalid_file_is_an_error_with_its_name(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(b"garbage")
    with (
        pytest.raises(StageFailed, match=r"ONNX Runtime cannot load .*model.onnx"),
        onnxruntime.start(file),
    ):
        pass


def test_products_of_int8_do_not_saturate() -> None:
    graph = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["": 18]>
        g (float[N,8] x) => (float[N,4] y)
        <float one = {1}, int8 zero = {0}, int8[8,4] table> {
          q = QuantizeLinear(x, one, zero)
          d = DequantizeLinear(q, one, zero)
          w = DequantizeLinear(table, one, zero)
          y = MatMul(d, w)
        }""")
    del graph.graph.value_info[:]
    graph.graph.initializer.append(onnx.numpy_helper.from_array(np.full((8, 4), 127, np.int8), "table"))
    with onnxruntime.start(graph.SerializeToString()) as session:
        answers = session(x=np.full((2, 8), 127, np.float32))
    np.testing.assert_array_equal(answers["y"], np.full((2, 4), 8 * 127 * 127, np.float32))


def test_a_weights_file_holds_the_whole_model(finished: Path) -> None:
    path = finished / ARTIFACTS["eager"]
    assert weights_file.definition(path) == TINY
    assert not eager.load_module(path).training
    assert not any(parameter.requires_grad for parameter in eager.load_module(path).parameters())


def test_tf32_is_off_while_a_session_runs(finished: Path) -> None:
    before = torch.backends.cudnn.allow_tf32
    for name in ("eager", "torchscript"):
        with load_backend(name).start(finished / ARTIFACTS[name]):
            assert not torch.backends.cudnn.allow_tf32
        assert torch.backends.cudnn.allow_tf32 == before


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["eager", "torchscript", "onnxruntime"])
def test_a_backend_has_the_outputs_of_the_model_on_cuda(finished: Path, name: str) -> None:
    sample = golden.read(finished / "golden" / "golden.npz")
    with load_backend(name).start(finished / ARTIFACTS[name], "cuda") as session:
        np.testing.assert_allclose(session(**sample.inputs)["logits"], sample.reference["logits"], atol=1e-5)


def test_a_session_that_has_ended_holds_its_model_no_more() -> None:
    class Model:
        def __call__(self, **inputs: Array) -> dict[str, Array]:
            return inputs

    model = Model()
    gone = weakref.ref(model)
    with until_end(model) as session:
        del model
        assert gone() is not None
        assert session(x=np.zeros(1)) == {"x": np.zeros(1)}
    assert gone() is None


@pytest.mark.parametrize(("variable", "stated", "threads"), [("1", 0, 1), ("3", 0, 3), ("3", 2, 2)])
def test_onnx_runtime_has_as_many_threads_as_openmp_unless_stated(
    variable: str, stated: int, threads: int, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", variable)
    before = psutil.Process().num_threads()
    with onnxruntime.start(finished / ARTIFACTS["onnxruntime"], threads=stated):
        assert psutil.Process().num_threads() - before == threads - 1  # the calling thread computes too
