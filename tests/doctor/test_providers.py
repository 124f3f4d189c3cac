"""A provider starts if it computes, and a child that dies costs nothing but itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from deploytool.doctor import providers
from deploytool.doctor.providers import CPU, CUDA, TENSORRT, Provider
from deploytool.errors import ChildFailed, StageFailed


def test_the_bytes_are_a_graph_that_onnx_agrees_with() -> None:
    graph = bytes.fromhex(providers._GRAPH)
    onnx.checker.check_model(onnx.load_from_string(graph), full_check=True)
    session = onnxruntime.InferenceSession(graph, providers=[CPU])
    (said,) = session.run(None, {"x": np.array([-1, 2], np.float32)})
    assert said.tolist() == [1, 2]


def test_the_cpu_provider_starts_here_and_one_that_is_not_there_does_not() -> None:
    assert Provider(CPU, True) in providers.tried()
    assert not providers._started("NoSuchExecutionProvider", providers._child).starts


def test_the_folder_one_stands_in_is_no_place_to_import_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit('taken')")
    monkeypatch.chdir(tmp_path)
    assert providers.tried()[-1] == Provider(CPU, True)


def test_what_is_listed_is_tried_one_by_one() -> None:
    def run(arguments: Sequence[str], gibibytes: float) -> str:
        if len(arguments) == 1:
            return '["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider", "Azure"]'
        if arguments[2] == TENSORRT:
            raise StageFailed("it was killed by SIGSEGV: it said nothing", "")
        if arguments[2] == CUDA:
            raise ChildFailed("it ended with status 1: …", "", "it falls back to CPUExecutionProvider")
        return ""

    assert providers.tried(run) == (
        Provider(TENSORRT, False, "it was killed by SIGSEGV: it said nothing"),
        Provider(CUDA, False, "it falls back to CPUExecutionProvider"),
        Provider(CPU, True),
    )


@pytest.mark.parametrize("said", ["", "not json", StageFailed("it ended with status 1: ImportError: libx", "")])
def test_an_onnx_runtime_that_cannot_be_imported_is_told(said: str | StageFailed) -> None:
    def run(arguments: Sequence[str], gibibytes: float) -> str:
        if isinstance(said, StageFailed):
            raise said
        return said

    (one,) = providers.tried(run)
    assert (one.name, one.starts) == (CPU, False)
    assert one.reason.startswith("onnxruntime cannot be imported: ")


def test_a_child_that_crashes_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "_PROVIDERS", "tests.doctor.crashing_worker")
    assert providers._started(CPU, providers._child) == Provider(
        CPU, False, "it was killed by SIGABRT: it said nothing"
    )
    monkeypatch.setattr(providers, "_PROVIDERS", "tests.doctor.sleeping_worker")
    monkeypatch.setattr(providers, "_SECONDS", 0.2)
    assert providers._started(CPU, providers._child) == Provider(CPU, False, "it was stopped after 0.2 s")


def test_the_releases_of_tensorrt_that_load() -> None:
    assert providers.loads(lambda arguments, gibibytes: "10\n11\n") == ("10", "11")
