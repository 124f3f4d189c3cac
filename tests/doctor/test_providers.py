"""A provider starts if it computes a correct result; a crash of the child process is only a reason."""

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


def test_the_probe_graph_is_a_valid_onnx_model() -> None:
    graph = bytes.fromhex(providers._GRAPH)
    onnx.checker.check_model(onnx.load_from_string(graph), full_check=True)
    session = onnxruntime.InferenceSession(graph, providers=[CPU])
    (result,) = session.run(None, {"x": np.array([-1, 2], np.float32)})
    assert result.tolist() == [1, 2]


def test_the_cpu_provider_starts_and_an_unknown_provider_does_not() -> None:
    assert Provider(CPU, True) in providers.probe_providers()
    assert not providers._probe("NoSuchExecutionProvider", providers._run_child).starts


def test_the_child_does_not_import_from_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit('imported')")
    monkeypatch.chdir(tmp_path)
    assert providers.probe_providers()[-1] == Provider(CPU, True)


def test_every_listed_provider_is_tested_separately() -> None:
    def run(arguments: Sequence[str], gibibytes: float) -> str:
        if len(arguments) == 1:
            return '["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider", "Azure"]'
        if arguments[2] == TENSORRT:
            raise StageFailed("the test was killed by SIGSEGV: no error message", "")
        if arguments[2] == CUDA:
            raise ChildFailed("the test ended with status 1: …", "", "it falls back to CPUExecutionProvider")
        return ""

    assert providers.probe_providers(run) == (
        Provider(TENSORRT, False, "the test was killed by SIGSEGV: no error message"),
        Provider(CUDA, False, "it falls back to CPUExecutionProvider"),
        Provider(CPU, True),
    )


@pytest.mark.parametrize("output", ["", "not json", StageFailed("the test ended with status 1: ImportError: libx", "")])
def test_an_onnx_runtime_that_cannot_be_imported_is_a_failed_cpu_provider(output: str | StageFailed) -> None:
    def run(arguments: Sequence[str], gibibytes: float) -> str:
        if isinstance(output, StageFailed):
            raise output
        return output

    (provider,) = providers.probe_providers(run)
    assert (provider.name, provider.starts) == (CPU, False)
    assert provider.reason.startswith("onnxruntime cannot be imported: ")


def test_a_crash_or_timeout_of_the_child_is_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "_PROVIDER_WORKER", "tests.doctor.crashing_worker")
    assert providers._probe(CPU, providers._run_child) == Provider(
        CPU, False, "the test was killed by SIGABRT: no error message"
    )
    monkeypatch.setattr(providers, "_PROVIDER_WORKER", "tests.doctor.sleeping_worker")
    monkeypatch.setattr(providers, "_SECONDS", 0.2)
    assert providers._probe(CPU, providers._run_child) == Provider(CPU, False, "the test was stopped after 0.2 s")


def test_loadable_tensorrt_releases() -> None:
    assert providers.loadable_tensorrt(lambda arguments, gibibytes: "10\n11\n") == ("10", "11")
