"""The error of sequential sums covers that of ONNX Runtime's own kernels, operator by operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.nn import functional

from deploytool.parity import metrics, noise

Array = npt.NDArray[Any]
DATA: dict[str, Callable[..., Array]] = {
    "one colour": lambda rng, shape: np.full(shape, 0.3731),
    "colours": lambda rng, shape: np.broadcast_to(rng.random((*shape[:2], *[1] * (len(shape) - 2))), shape),
    "ramp": lambda rng, shape: np.broadcast_to(np.linspace(0, 1, shape[-1]), shape),
    "positive": lambda rng, shape: rng.random(shape),
    "around zero": lambda rng, shape: rng.standard_normal(shape),
}


def drawn(kind: str, *shape: int) -> Array:
    return np.ascontiguousarray(DATA[kind](np.random.default_rng(0), shape), np.float32)


def onnxruntime_answer(op: str, *given: Array, constants: int = 0, **settings: Any) -> Array:
    """The answer of ONNX Runtime's kernel; integer inputs are weights, and so are the last `constants` inputs."""
    variable = given[: len(given) - constants]
    names = [f"in_{place}" for place in range(len(given))]
    fed = {name: each for each, name in zip(variable, names, strict=False) if each.dtype == np.float32}
    weights = [numpy_helper.from_array(each, name) for each, name in zip(given, names, strict=True) if name not in fed]
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, each.shape) for name, each in fed.items()]
    output = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node(op, names, ["out"], **settings)], "one", inputs, [output], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, fed)
    return np.asarray(answer)


def error(got: Array, exact: Array) -> float:
    return float(np.abs(got.astype(np.float64) - exact).max() / np.abs(exact).max())


def sequential(call: Callable[..., torch.Tensor], *given: Array) -> Array:
    with noise._SequentialMode(), torch.inference_mode():
        return call(*map(torch.from_numpy, given)).numpy()


def assert_covered(runtime: Array, ours: Array, exact: Array, pytorch: Array | None = None) -> None:
    """Fails unless ONNX Runtime's error is within what a tolerance derives from the sequential and PyTorch's error."""
    rounding = 16 * 2.0**-24  # allowed by every tolerance
    margin = 0.0 if pytorch is None else metrics.MARGIN32.rms * error(pytorch, exact)
    assert error(runtime, exact) <= max(noise.ORDER_FACTOR * error(ours, exact), margin, rounding)


@pytest.mark.parametrize("kind", DATA)
@pytest.mark.parametrize("side", [8, 16, 32, 64, 128, 224])
def test_a_global_pool(kind: str, side: int) -> None:
    x = drawn(kind, 2, 16, side, side)  # a whole block of channels
    ours = sequential(lambda x: functional.adaptive_avg_pool2d(x, 1), x)
    runtime = onnxruntime_answer("GlobalAveragePool", x)
    np.testing.assert_allclose(ours, runtime, rtol=1e-6, atol=1e-6 * np.abs(runtime).max())  # the same order
    assert_covered(runtime, ours, x.astype(np.float64).mean((2, 3), keepdims=True))


@pytest.mark.parametrize("kind", DATA)
@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (1, 2), (0, 2)])
@pytest.mark.parametrize("op", ["ReduceMean", "ReduceSum"])
def test_a_mean_and_a_sum(kind: str, axes: tuple[int, ...], op: str) -> None:
    x = drawn(kind, 16000 if 0 in axes else 3, 16000 if axes == (1,) else 8, 16000 if axes == (2,) else 40)
    call = torch.mean if op == "ReduceMean" else torch.sum
    exact: Array = np.asarray((np.mean if op == "ReduceMean" else np.sum)(x, axis=axes, dtype=np.float64))
    ours = sequential(lambda x: call(x, axes), x)
    assert_covered(onnxruntime_answer(op, x, np.array(axes), keepdims=0), ours, exact)


@pytest.mark.parametrize("kind", DATA)
@pytest.mark.parametrize(("window", "step"), [(7, 7), (7, 1), (14, 14), (32, 16)])
def test_a_pool_of_windows(kind: str, window: int, step: int) -> None:
    x = drawn(kind, 2, 16, 64, 64)
    exact = functional.avg_pool2d(torch.from_numpy(x).double(), window, step).numpy()
    ours = sequential(lambda x: functional.avg_pool2d(x, window, step), x)
    assert_covered(onnxruntime_answer("AveragePool", x, kernel_shape=[window] * 2, strides=[step] * 2), ours, exact)


@pytest.mark.parametrize("kind", DATA)
@pytest.mark.parametrize("terms", [9, 64, 576, 1152, 4608])
@pytest.mark.parametrize("classes", [1, 10, 100, 1000])
def test_a_matrix_product(kind: str, terms: int, classes: int) -> None:
    x, y = drawn(kind, 12, terms), drawn(kind, classes, terms) * np.linspace(0.5, 1, classes, dtype=np.float32)[:, None]
    exact, turned = x.astype(np.float64) @ y.T, np.ascontiguousarray(y.T)
    pytorch = functional.linear(torch.from_numpy(x), torch.from_numpy(y)).numpy()
    assert_covered(onnxruntime_answer("MatMul", x, turned), sequential(torch.matmul, x, turned), exact, pytorch)
    packed = onnxruntime_answer("Gemm", x, y, constants=1, transB=1)
    assert_covered(packed, sequential(functional.linear, x, y), exact, pytorch)


@pytest.mark.parametrize("kind", DATA)
@pytest.mark.parametrize("places", [256, 1024, 4096])
def test_a_gram_matrix(kind: str, places: int) -> None:
    x = drawn(kind, 2, 16, places)
    exact = x.astype(np.float64) @ x.transpose(0, 2, 1)
    assert_covered(
        onnxruntime_answer("MatMul", x, x.transpose(0, 2, 1).copy()), sequential(lambda x: x @ x.mT, x), exact
    )


@pytest.mark.parametrize("kind", DATA)
@pytest.mark.parametrize("count", [100, 16000])
def test_a_running_sum(kind: str, count: int) -> None:
    x = drawn(kind, 3, count)
    runtime = onnxruntime_answer("CumSum", x, np.array(1))
    np.testing.assert_array_equal(sequential(lambda x: x.cumsum(1), x), runtime)


@pytest.mark.parametrize("kind", DATA)
@pytest.mark.parametrize("places", [1000, 50000])
@pytest.mark.parametrize(
    ("op", "call", "settings"),
    [
        ("Softmax", lambda x: x.softmax(1), {"axis": 1}),
        ("LogSoftmax", lambda x: x.log_softmax(1), {"axis": 1}),
        ("ReduceLogSumExp", lambda x: x.logsumexp(1, keepdim=True), {}),
        ("ReduceL2", lambda x: x.norm(dim=1, keepdim=True), {}),
        ("ReduceL2", lambda x: torch.linalg.vector_norm(x, dim=1, keepdim=True), {}),
    ],
)
def test_operators_with_an_inner_sum(kind: str, places: int, op: str, call: Any, settings: dict[str, Any]) -> None:
    x = drawn(kind, 2, places)
    axes = [np.array([1])] if op.startswith("Reduce") else []
    assert_covered(
        onnxruntime_answer(op, x, *axes, **settings), sequential(call, x), call(torch.from_numpy(x).double()).numpy()
    )


@pytest.mark.parametrize("kind", ["ramp", "positive", "around zero"])
@pytest.mark.parametrize("places", [64, 768, 4096])
def test_norms_over_one_axis(kind: str, places: int) -> None:
    x, ones, zeros = drawn(kind, 4, places) + np.float32(2), np.ones(places), np.zeros(places)
    affine = ones.astype(np.float32), zeros.astype(np.float32)
    exact = functional.layer_norm(torch.from_numpy(x).double(), (places,)).numpy()
    ours = sequential(lambda x: functional.layer_norm(x, (places,)), x)
    assert_covered(onnxruntime_answer("LayerNormalization", x, *affine, axis=-1), ours, exact)


@pytest.mark.parametrize("kind", DATA)
@pytest.mark.parametrize("places", [64, 1024, 16384])
def test_norms_over_positions(kind: str, places: int) -> None:
    """Of one colour the exact result is 0, and the error is the amplified drift of the mean."""
    x, affine = drawn(kind, 2, 16, places), (np.ones(16, np.float32), np.zeros(16, np.float32))
    exact = functional.instance_norm(torch.from_numpy(x).double()).numpy()
    runtime, ours = onnxruntime_answer("InstanceNormalization", x, *affine), sequential(functional.instance_norm, x)
    deviations = [float(np.abs(answer - exact).max()) for answer in (runtime, ours)]
    assert deviations[0] <= max(noise.ORDER_FACTOR * deviations[1], 1e-5)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: x.mean(),
        lambda x: x.mean(2),
        lambda x: x.mean((1, 3), keepdim=True),
        lambda x: x.mean(axis=-1),
        lambda x: torch.sum(x, dim=[0, 2], keepdim=True),
        lambda x: x.sum(()),
        lambda x: x.sum(1, dtype=torch.float64),
        lambda x: x.norm(),
        lambda x: x.norm(1, dim=2),
        lambda x: x.norm(p=2, dim=(2, 3), keepdim=True),
        lambda x: torch.linalg.norm(x, dim=1),
        lambda x: torch.linalg.vector_norm(x, 3),
        lambda x: x.std((2, 3)),
        lambda x: x.var(1, unbiased=False, keepdim=True),
        lambda x: torch.std(x, dim=2, correction=0),
        lambda x: functional.normalize(x),
        lambda x: functional.adaptive_avg_pool2d(x, (4, None)),
        lambda x: functional.adaptive_avg_pool2d(x, (5, 3)),
        lambda x: functional.adaptive_avg_pool2d(x[0], 2),
        lambda x: functional.adaptive_avg_pool1d(x[0], 3),
        lambda x: functional.adaptive_avg_pool3d(x[None], 2),
        lambda x: functional.avg_pool2d(x, 3, 2, 1),
        lambda x: functional.avg_pool2d(x, (3, 2), padding=(1, 0), count_include_pad=False),
        lambda x: functional.avg_pool2d(x, 5, 3, ceil_mode=True),
        lambda x: functional.avg_pool2d(x, 4, divisor_override=3),
        lambda x: functional.avg_pool1d(x[0], 4, 2),
        lambda x: functional.avg_pool2d(x[0], 3),
        lambda x: functional.avg_pool3d(x[None], (1, 2, 3)),
        lambda x: x @ x.mT,
        lambda x: torch.bmm(x[0], x[1].mT),
        lambda x: x[0, 0] @ x[0, 0, 0],
        lambda x: torch.einsum("bchw,bdhw->bcd", x, x),
        lambda x: functional.linear(x, torch.ones(5, x.shape[-1], dtype=x.dtype)),
        lambda x: functional.linear(x[0, 0, 0], torch.ones(5, x.shape[-1], dtype=x.dtype)),
        lambda x: x.cumsum(2),
        functional.instance_norm,
        lambda x: functional.group_norm(x, 2, torch.ones(4, dtype=x.dtype), torch.ones(4, dtype=x.dtype)),
        lambda x: functional.batch_norm(x, x[0, :, 0, 0] * 0, x[0, :, 0, 0] * 0 + 1),
        lambda x: x.logsumexp(1),
        lambda x: torch.logsumexp(x, dim=(2, 3), keepdim=True),
        lambda x: (x > 0).sum((2, 3)),
        lambda x: x.int().sum(1),
    ],
)
def test_a_replacement_computes_what_pytorch_computes(call: Callable[[torch.Tensor], torch.Tensor]) -> None:
    x = torch.from_numpy(drawn("around zero", 2, 4, 12, 12))
    exact = call(x.double())
    got = sequential(call, x.numpy())
    assert got.shape == exact.shape
    np.testing.assert_allclose(got, exact, rtol=1e-4, atol=1e-5)
