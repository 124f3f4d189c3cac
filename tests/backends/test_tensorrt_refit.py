"""The calls that fill weights into a stripped engine, with the names that each release of TensorRT has."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from deploytool.backends import tensorrt_builder, tensorrt_refit
from deploytool.builder_settings import BuilderSettings
from deploytool.errors import StageFailed
from deploytool.spec import EnginePlan, Range, Tensor
from tests.backends.fake_tensorrt import FULL, FakeTensorRT, Strict


class Refitting:
    """The part of a release that refitting needs; `weights` are what the engine still lacks after the graph."""

    def __init__(self, release: str, *, takes: bool = True, lacks: tuple[str, ...] = (), works: bool = True) -> None:
        self.release, self.takes, self.lacks, self.works = release, takes, lacks, works
        self.refittable = True
        self.calls: list[Any] = []

    def _called(self, what: Any, answer: bool) -> bool:
        self.calls.append(what)
        return answer

    def Refitter(self, engine: str, logger: str) -> Strict:  # noqa: N802
        if not self.refittable:
            raise TypeError("tensorrt.Refitter(): factory function returned nullptr")
        return Strict(
            *(self.release, "Refitter"),
            get_missing_weights=lambda: list(self.lacks),
            refit_cuda_engine=lambda: self._called("refit", self.works),
        )

    def OnnxParserRefitter(self, refitter: Strict, logger: str) -> Strict:  # noqa: N802
        return Strict(
            *(self.release, "OnnxParserRefitter"),
            refit_from_bytes=lambda graph: self._called(graph, self.takes),
            num_errors=1,
            get_error=lambda index: SimpleNamespace(desc=lambda: "node conv has another name\nand more"),
        )


@pytest.mark.parametrize("release", FULL)
def test_the_weights_of_the_graph_are_filled_in(release: str) -> None:
    trt = Refitting(release)
    tensorrt_refit.refit(trt, "engine", "logger", b"graph")
    assert trt.calls == [b"graph", "refit"]


@pytest.mark.parametrize(
    ("trt", "problem"),
    [
        (Refitting(FULL[0], takes=False), "does not take the weights of its graph: node conv has another name$"),
        (Refitting(FULL[0], lacks=("w1", "w2")), "the graph lacks 2 weights of the engine, such as w1"),
        (Refitting(FULL[0], works=False), "could not fill in the weights"),
    ],
)
def test_an_engine_that_lacks_weights_never_runs(trt: Refitting, problem: str) -> None:
    with pytest.raises(StageFailed, match=problem):
        tensorrt_refit.refit(trt, "engine", "logger", b"graph")


def test_an_engine_with_weights_of_its_own_takes_none() -> None:
    trt = Refitting(FULL[0])
    trt.refittable = False
    with pytest.raises(StageFailed, match="the engine takes no weights"):
        tensorrt_refit.refit(trt, "engine", "logger", b"graph")


@pytest.mark.parametrize("release", FULL)
def test_weights_are_left_out_where_that_is_stated(release: str) -> None:
    for settings, flags in (
        (BuilderSettings(stripped=True), ["STRIP_PLAN", "REFIT_IDENTICAL"]),
        (BuilderSettings(), []),
    ):
        trt = FakeTensorRT(release)
        plan, tensor = EnginePlan("model.plan", "tensorrt"), Tensor("x", ("batch", 3, 8, 8))
        tensorrt_builder.build(trt, b"graph", plan, (tensor,), {"batch": Range()}, None, settings=settings)
        assert [call[1] for call in trt.calls] == flags
