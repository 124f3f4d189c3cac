"""The calls that running an engine makes, against a fake CUDA runtime that copies host memory."""

from __future__ import annotations

import ctypes
import enum
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from deploytool.backends import tensorrt, tensorrt_refit
from deploytool.errors import MissingBackend, StageFailed
from deploytool.host import machine
from deploytool.host.machine import Gpu

OK = 0


class FakeCuda:
    """A CUDA runtime on host memory; launching a graph runs the context again."""

    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)  # noqa: N815  # CUDA's names
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)  # noqa: N815

    def __init__(self, context: FakeContext, capture: int = OK) -> None:
        self.context, self.capture = context, capture
        self.calls: list[str] = []
        self.memory: dict[int, Any] = {}

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> tuple[Any, ...]:
            self.calls.append(name)
            method = getattr(type(self), f"do_{name}", None)
            return (OK, *method(self, *arguments)) if method else (OK,)

        return call

    def do_cudaMalloc(self, size: int) -> tuple[int]:  # noqa: N802
        buffer = ctypes.create_string_buffer(size)
        self.memory[ctypes.addressof(buffer)] = buffer
        return (ctypes.addressof(buffer),)

    def do_cudaFree(self, address: int) -> tuple[()]:  # noqa: N802
        del self.memory[address]
        return ()

    def do_cudaMemcpyAsync(self, destination: int, source: int, size: int, kind: int, stream: int) -> tuple[()]:  # noqa: N802
        ctypes.memmove(destination, source, size)
        return ()

    def do_cudaStreamCreate(self) -> tuple[int]:  # noqa: N802
        return (7,)

    def do_cudaEventCreate(self) -> tuple[int]:  # noqa: N802
        return (8,)

    def cudaStreamEndCapture(self, stream: int) -> tuple[int, str]:  # noqa: N802
        self.calls.append("cudaStreamEndCapture")
        return (self.capture, "graph")

    def do_cudaGraphInstantiate(self, graph: str, flags: int) -> tuple[str]:  # noqa: N802
        return ("executable",)

    def do_cudaGraphLaunch(self, graph: str, stream: int) -> tuple[()]:  # noqa: N802
        self.context.compute()
        return ()

    def do_cudaEventElapsedTime(self, start: int, end: int) -> tuple[float]:  # noqa: N802
        return (0.25,)


class FakeContext:
    """An execution context that doubles its input."""

    def __init__(self) -> None:
        self.shape: tuple[int, ...] = ()
        self.address: dict[str, int] = {}
        self.works = True
        self.profile, self.takes_profiles = 0, True

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        self.profile = index
        return self.takes_profiles

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shape = shape
        least, _, most = PROFILES[self.profile]
        return all(low <= side <= high for low, side, high in zip(least, shape, most, strict=True))

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shape

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.address[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        self.compute()
        return self.works

    def compute(self) -> None:
        count = int(np.prod(self.shape))
        x, y = (np.ctypeslib.as_array((ctypes.c_float * count).from_address(self.address[n])) for n in "xy")
        y[:] = x * 2


class Mode(enum.Enum):
    INPUT = 0
    OUTPUT = 1


PROFILES = (((1, 3), (2, 3), (4, 3)), ((4, 5), (4, 5), (8, 5)))  # smallest, typical and largest shape of each


class FakeTrt:
    """The part of TensorRT that running an engine needs."""

    Logger = type("Logger", (), {"ERROR": 1, "__init__": lambda self, severity: None})
    TensorIOMode = Mode

    def __init__(self, context: FakeContext, plan_is_good: bool = True) -> None:
        self.context, self.plan_is_good = context, plan_is_good

    def Runtime(self, logger: object) -> Any:  # noqa: N802
        engine = SimpleNamespace(
            num_io_tensors=2,
            get_tensor_name=lambda index: "xy"[index],
            get_tensor_mode=lambda name: Mode.INPUT if name == "x" else Mode.OUTPUT,
            get_tensor_dtype=lambda name: "float",
            create_execution_context=lambda: self.context,
            num_optimization_profiles=len(PROFILES),
            get_tensor_profile_shape=lambda name, index: PROFILES[index],
        )
        return SimpleNamespace(deserialize_cuda_engine=lambda plan: engine if self.plan_is_good else None)

    def nptype(self, dtype: str) -> type:
        return np.float32


@pytest.fixture
def context() -> FakeContext:
    return FakeContext()


X = np.arange(6, dtype=np.float32).reshape(2, 3)


def test_an_engine_copies_inputs_runs_and_copies_outputs(context: FakeContext) -> None:
    cuda = FakeCuda(context)
    engine = tensorrt.Engine(FakeTrt(context), cuda, b"plan")
    np.testing.assert_array_equal(engine(x=X)["y"], X * 2)
    np.testing.assert_array_equal(engine(x=X + 1)["y"], X * 2 + 2)
    assert engine.gpu_ms == [0.25, 0.25]


def test_the_run_is_captured_once_for_each_shape_and_replayed(context: FakeContext) -> None:
    cuda = FakeCuda(context)
    engine = tensorrt.Engine(FakeTrt(context), cuda, b"plan")
    for batch in (X, X, X[:1], X[:1]):
        np.testing.assert_array_equal(engine(x=batch)["y"], batch * 2)
    assert cuda.calls.count("cudaStreamBeginCapture") == 2
    assert cuda.calls.count("cudaGraphLaunch") == 4


def test_an_engine_that_cannot_be_captured_is_enqueued_each_time(context: FakeContext) -> None:
    cuda = FakeCuda(context, capture=900)
    engine = tensorrt.Engine(FakeTrt(context), cuda, b"plan")
    np.testing.assert_array_equal(engine(x=X)["y"], X * 2)
    assert "cudaGraphLaunch" not in cuda.calls


def test_closing_frees_all_resources(context: FakeContext) -> None:
    cuda = FakeCuda(context)
    engine = tensorrt.Engine(FakeTrt(context), cuda, b"plan")
    engine(x=X)
    assert len(cuda.memory) == 2
    engine.close()
    assert cuda.memory == {}
    assert {"cudaGraphExecDestroy", "cudaEventDestroy", "cudaStreamDestroy"} <= set(cuda.calls)


def test_a_stripped_engine_gets_the_weights_of_its_graph_before_it_runs(
    context: FakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled: list[Any] = []
    monkeypatch.setattr(tensorrt_refit, "refit", lambda trt, engine, logger, graph: filled.append(graph))
    for weights in (None, b"graph"):
        engine = tensorrt.Engine(FakeTrt(context), FakeCuda(context), b"plan", weights)
        np.testing.assert_array_equal(engine(x=X)["y"], X * 2)
    assert filled == [b"graph"]


def test_outputs_are_not_overwritten_by_the_next_call(context: FakeContext) -> None:
    engine = tensorrt.Engine(FakeTrt(context), FakeCuda(context), b"plan")
    first = engine(x=X)["y"]
    engine(x=X + 5)
    np.testing.assert_array_equal(first, X * 2)


def test_refused_engines_shapes_and_runs_are_errors(context: FakeContext) -> None:
    with pytest.raises(StageFailed, match="cannot load the engine"):
        tensorrt.Engine(FakeTrt(context, plan_is_good=False), FakeCuda(context), b"plan")
    engine = tensorrt.Engine(FakeTrt(context), FakeCuda(context), b"plan")
    with pytest.raises(StageFailed, match=r"does not accept x of shape \(9, 3\)"):
        engine(x=np.zeros((9, 3), np.float32))
    context.works = False
    with pytest.raises(StageFailed, match="cannot run the engine"):
        engine(x=X)


@pytest.mark.parametrize("shape", [(1, 3), (4, 3), (4, 5), (8, 5)])
def test_every_corner_of_every_profile_runs_in_that_profile(context: FakeContext, shape: tuple[int, int]) -> None:
    engine = tensorrt.Engine(FakeTrt(context), FakeCuda(context), b"plan")
    for each in (X, np.ones(shape, np.float32), X):
        np.testing.assert_array_equal(engine(x=each)["y"], each * 2)
        assert context.profile == (0 if each.shape[1] == 3 else 1)


def test_a_shape_of_no_profile_and_a_refused_profile_are_errors(context: FakeContext) -> None:
    engine = tensorrt.Engine(FakeTrt(context), FakeCuda(context), b"plan")
    with pytest.raises(StageFailed, match=r"does not accept x of shape \(3, 5\)"):
        engine(x=np.ones((3, 5), np.float32))
    context.takes_profiles = False
    with pytest.raises(StageFailed, match="does not take its profile 1"):
        engine(x=np.ones((4, 5), np.float32))


def test_a_cuda_error_is_raised(context: FakeContext, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda(context)
    engine = tensorrt.Engine(FakeTrt(context), cuda, b"plan")
    monkeypatch.setattr(cuda, "cudaMalloc", lambda size: (2, None), raising=False)
    with pytest.raises(StageFailed, match="CUDA reports 2"):
        engine(x=X)


def test_without_a_driver_no_runtime_is_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(machine, "gpus", lambda: ())
    monkeypatch.setattr(tensorrt, "library", lambda name: pytest.fail("a runtime was loaded"))
    with pytest.raises(MissingBackend, match="an engine needs a CUDA GPU"), tensorrt.start(tmp_path / "none"):
        pass


@pytest.mark.parametrize(
    ("flavour", "capabilities", "gpu", "supported"),
    [
        ("tensorrt", (), "9.0", True),
        ("tensorrt_rtx", (), "8.9", True),
        ("tensorrt_rtx", (), "9.0", False),
        ("tensorrt_rtx", (), "7.5", False),
        ("tensorrt_rtx", ("7.5",), "7.5", True),
        ("tensorrt_rtx", ("8.6",), "8.9", False),
    ],
)
def test_which_gpus_an_engine_supports(
    monkeypatch: pytest.MonkeyPatch, flavour: str, capabilities: tuple[str, ...], gpu: str, supported: bool
) -> None:
    monkeypatch.setattr(machine, "gpus", lambda: (Gpu("some GPU", gpu),))
    assert tensorrt.is_for_this_gpu(flavour, capabilities) is supported
    monkeypatch.setattr(machine, "gpus", lambda: ())
    assert not tensorrt.is_for_this_gpu(flavour, capabilities)


def test_a_missing_library_is_an_error_with_its_distribution() -> None:
    with pytest.raises(MissingBackend, match="tensorrt cannot be imported") as caught:
        tensorrt.library("tensorrt")
    assert caught.value.remedy == "pip install tensorrt"
