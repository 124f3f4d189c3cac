"""What a build asks of each TensorRT release, and how a lack of memory is named; the TensorRT builds nothing."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from deploytool.backends import tensorrt_builder
from deploytool.backends.tensorrt_builder import BuiltEngine
from deploytool.builder_settings import UNSET, BuilderSettings
from deploytool.errors import OutOfMemory, StageFailed
from deploytool.spec import EnginePlan, Range, Tensor
from tests.backends.fake_tensorrt import FULL, RTX, FakeTensorRT

INPUT = Tensor("x", ("batch", 3, "H", "W"))
RANGES = {"batch": Range(1, 4, 8), "H": Range(192, 224, 256), "W": Range(192, 224, 256)}
LIMITS = BuilderSettings(workspace_mib=64, memory_mib=512, level=5)


def build(trt: FakeTensorRT, settings: BuilderSettings = UNSET, cache: bytes | None = None) -> BuiltEngine:
    plan = EnginePlan("model.plan", trt.release.partition("-")[0])
    return tensorrt_builder.build(trt, b"graph", plan, (INPUT,), RANGES, None, settings=settings, timing_cache=cache)


@pytest.mark.parametrize("release", [*FULL, RTX])
def test_limits_and_level_reach_every_release(release: str) -> None:
    trt = FakeTensorRT(release)
    assert build(trt, LIMITS).engine == b"engine"
    assert trt.calls == [("pool", "WORKSPACE", 64 << 20), ("pool", "TACTIC_DRAM", 512 << 20)]
    assert trt.config.builder_optimization_level == 5


@pytest.mark.parametrize("release", [*FULL, RTX])
def test_what_is_not_stated_is_left_to_tensorrt(release: str) -> None:
    trt = FakeTensorRT(release)
    build(trt)
    assert trt.calls == []
    assert not hasattr(trt.config, "builder_optimization_level")


SHORTAGES = (  # as TensorRT 8 to 11 word them
    "Requested amount of GPU memory (4294967296 bytes) could not be allocated.",
    "[defaultAllocator.cpp::allocate::62] Error Code 1: Cuda Runtime (out of memory)",
    "Skipping tactic 0x0 due to insufficient memory on requested size of 33554432 detected for tactic 0x1.",
    "Tactic Device request: 4513MB Available: 2112MB. Device memory is insufficient to use tactic.",
    "[virtualMemoryBuffer.cpp::resizePhysical::154] Error Code 2: OutOfMemory (Requested size was 33554432 bytes.)",
)


@pytest.mark.parametrize("message", SHORTAGES)
@pytest.mark.parametrize("severity", ["ERROR", "WARNING", "VERBOSE"])
def test_a_build_that_ran_out_of_memory_says_so(message: str, severity: str) -> None:
    after = ("ERROR", "Error Code 10: Internal Error (Could not find any implementation for node {ForeignNode}.)")
    trt = FakeTensorRT(FULL[0], messages=((severity, message), after), works=False)
    with pytest.raises(OutOfMemory, match="tensorrt ran out of memory while it built the engine") as caught:
        build(trt)
    assert message[:60] in str(caught.value)
    assert "lower --workspace" in caught.value.remedy
    with pytest.raises(OutOfMemory) as caught:
        build(trt, LIMITS)
    assert caught.value.remedy.startswith("raise --builder-memory, which is 512 MiB")


@pytest.mark.parametrize(
    "message",
    [
        "Could not find any implementation for node conv due to insufficient workspace.",
        "Tactic Selection: no tactics to implement the operation within workspace limit.",
        "Error Code 2: OutOfMemory (Requested size was 85097160 bytes.)",
    ],
)
def test_a_workspace_that_is_too_small_is_told_from_a_full_gpu(message: str) -> None:
    trt = FakeTensorRT(FULL[0], messages=(("ERROR", message),), works=False)
    with pytest.raises(OutOfMemory, match="the workspace of 64 MiB is too small") as caught:
        build(trt, LIMITS)
    assert caught.value.remedy == "raise --workspace"
    with pytest.raises(OutOfMemory, match="ran out of memory"):
        build(trt)


def test_other_failures_are_not_called_a_lack_of_memory() -> None:
    trt = FakeTensorRT(FULL[0], messages=(("ERROR", "Could not find any implementation for node conv."),), works=False)
    with pytest.raises(StageFailed, match="could not build the engine: ERROR: Could not find") as caught:
        build(trt)
    assert not isinstance(caught.value, OutOfMemory)


def test_a_shortage_that_tensorrt_worked_around_is_no_error() -> None:
    assert build(FakeTensorRT(FULL[0], messages=(("WARNING", SHORTAGES[0]),))).engine == b"engine"


@pytest.mark.parametrize("release", FULL)
def test_the_timing_cache_of_the_first_build_is_used_by_the_second(release: str) -> None:
    trt = FakeTensorRT(release)
    first = build(trt, cache=b"")
    assert (first.timing_cache, first.reused) == (b"kept", False)
    second = build(trt, cache=first.timing_cache)
    assert (second.timing_cache, second.reused) == (b"kept", True)
    assert trt.calls == [("cache", b""), ("cache", b"kept")]


@pytest.mark.parametrize("release", FULL)
def test_a_cache_that_tensorrt_refuses_is_replaced(release: str) -> None:
    trt = FakeTensorRT(release)
    built = build(trt, cache=b"of another GPU")
    assert (built.timing_cache, built.reused) == (b"kept", False)
    assert trt.calls == [("cache", b"of another GPU"), ("cache", b"")]


def test_tensorrt_rtx_has_no_timing_cache() -> None:
    trt = FakeTensorRT(RTX)
    assert build(trt, cache=b"kept").timing_cache == b""
    assert trt.calls == []


PROFILES = (
    {"H": Range(192, 224, 256), "W": Range(192, 224, 256)},
    {"H": Range(512, 512, 512), "W": Range(256, 512, 1024)},
    {"H": Range(32, 64, 96), "W": Range(32, 64, 96)},
)


@pytest.mark.parametrize("release", [*FULL, RTX])
def test_every_profile_reaches_every_release_with_the_batch(release: str) -> None:
    trt = FakeTensorRT(release)
    build(trt, BuilderSettings(profiles=PROFILES))
    assert [profile["x"] for profile in trt.profiles] == [
        ([1, 3, 192, 192], [4, 3, 224, 224], [8, 3, 256, 256]),
        ([1, 3, 512, 256], [4, 3, 512, 512], [8, 3, 512, 1024]),
        ([1, 3, 32, 32], [4, 3, 64, 64], [8, 3, 96, 96]),
    ]


def test_without_profiles_there_is_one_of_all_ranges() -> None:
    trt = FakeTensorRT(FULL[0])
    build(trt)
    assert [profile["x"] for profile in trt.profiles] == [([1, 3, 192, 192], [4, 3, 224, 224], [8, 3, 256, 256])]


def test_a_profile_that_tensorrt_refuses_is_named() -> None:
    with pytest.raises(StageFailed, match="TensorRT does not take the profile H=192:224:256, W=192:224:256"):
        build(FakeTensorRT(FULL[0], refused_profile=True), BuilderSettings(profiles=PROFILES))


def convolution() -> bytes:
    """A graph of one FP16 convolution with a free height and width."""
    weights = numpy_helper.from_array(np.ones((16, 3, 3, 3), np.float16), "w")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT16, ["batch", 3, "H", "W"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT16, ["batch", 16, "H", "W"])
    node = helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[3, 3], pads=[1] * 4)
    graph = helper.make_graph([node], "graph", [x], [y], [weights])
    return bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString()
    )


def build_with_rtx(settings: BuilderSettings, *capabilities: str) -> BuiltEngine:
    plan = EnginePlan("model.plan", "tensorrt_rtx", capabilities)
    largest = {name: Range(1, 64, 1024) for name in ("H", "W")}
    return tensorrt_builder.build(
        *(importlib.import_module("tensorrt_rtx"), convolution(), plan, (INPUT,)),
        *({**RANGES, **largest}, None),
        settings=settings,
    )


def test_rtx_builds_an_engine_with_three_profiles() -> None:
    one, three = build_with_rtx(UNSET), build_with_rtx(BuilderSettings(profiles=PROFILES))
    assert len(three.engine) > len(one.engine)


@pytest.mark.parametrize("workspace_mib", [1, 64])  # no kernel fits into the first, and none of those tried the second
def test_rtx_runs_out_of_workspace_in_two_ways_and_both_are_named(workspace_mib: int) -> None:
    with pytest.raises(OutOfMemory, match=f"the workspace of {workspace_mib} MiB is too small"):
        build_with_rtx(BuilderSettings(workspace_mib=workspace_mib))


def test_a_failed_build_does_not_change_the_next_engine() -> None:
    """TensorRT-RTX would build the next engine for the GPU of the failed one."""
    before = build_with_rtx(UNSET)
    with pytest.raises(OutOfMemory):
        build_with_rtx(BuilderSettings(workspace_mib=1), "7.5")
    assert len(build_with_rtx(UNSET).engine) == pytest.approx(len(before.engine), rel=0.01)
