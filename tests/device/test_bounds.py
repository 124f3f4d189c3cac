"""A child process is limited to the memory that the manifest states; too little memory is not a fault of the bundle."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, helper, numpy_helper
from PIL import Image

import deploytool.device
from deploytool import serde
from deploytool.bundle.manifest import read_manifest, write_manifest
from deploytool.device import bounds, install, probe, verify, worker
from deploytool.device.bounds import bounded
from deploytool.device.candidates import Candidate, Tier
from deploytool.device.environment import Environment
from deploytool.device.worker import Request
from deploytool.errors import ChildDied, NotVerified, OutOfMemory, ResourceExhausted, StageFailed
from deploytool.host import memory
from deploytool.spec import Precision
from tests.conftest import ROOT
from tests.device.ort_cpu import on_ort_cpu
from tests.fuzz.artifacts import update_manifest

MORE_MIB = 256
WIDE = 1 << 29  # numbers: 2 GiB


def probed(folder: Path, available: str = "") -> tuple[str, bool, int]:
    """Status, whether the bundle is at fault, and peak memory in MiB of a probe with `available` bytes of memory."""
    command = [sys.executable, "-m", "tests.device.probed", str(folder), available]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    status, is_at_fault, peak_mib = json.loads(done.stdout)
    return status, is_at_fault, peak_mib


def constant(model: ModelProto, name: str, *numbers: int) -> str:
    model.graph.initializer.append(numpy_helper.from_array(np.array(numbers, np.int64), name))
    return name


def expanded(model: ModelProto, source: str) -> list[NodeProto]:
    return [helper.make_node("Expand", [source, constant(model, "wide", WIDE)], ["much"])]


def tiled(model: ModelProto, source: str) -> list[NodeProto]:
    return [helper.make_node("Tile", [source, constant(model, "wide", WIDE)], ["much"])]


def folded(model: ModelProto, _: str) -> list[NodeProto]:
    """From constants: ONNX Runtime computes it while it opens the graph."""
    return [helper.make_node("ConstantOfShape", [constant(model, "wide", WIDE)], ["much"])]


def hoarded(model: ModelProto, source: str) -> list[NodeProto]:
    """Many tensors, each of a normal size, all kept until the end."""
    wide = constant(model, "wide", 1 << 23)
    names = [f"part{number}" for number in range(64)]
    extra_nodes = []
    for name in names:  # of distinct inputs: identical nodes are merged
        extra_nodes.append(helper.make_node("Sin", [source], [f"of_{name}"]))
        extra_nodes.append(helper.make_node("Expand", [source := f"of_{name}", wide], [name]))
    return [*extra_nodes, helper.make_node("Max", names, ["much"])]


@pytest.fixture
def folder(packed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(packed, tmp_path / "bundle"))


def forged(folder: Path, kind: str) -> Path:
    """A bundle whose FP32 graph allocates 2 GiB more, with a manifest that has its digest."""
    manifest = read_manifest(folder)
    path = folder / next(graph.path for graph in manifest.graphs if graph.precision == "fp32")
    model = onnx.load(path)
    extra_nodes = {"expanded": expanded, "tiled": tiled, "folded": folded, "hoarded": hoarded}[kind]
    source = model.graph.node[-1].input[0]
    model.graph.node.append(helper.make_node("ReduceMax", [source], ["scalar"], keepdims=0))
    model.graph.node.append(helper.make_node("Reshape", ["scalar", constant(model, "flat", 1)], ["one"]))
    model.graph.node.extend(extra_nodes(model, "one"))
    model.graph.node.append(helper.make_node("ReduceMax", ["much"], ["most"], keepdims=0))
    model.graph.output.append(helper.make_empty_tensor_value_info("most"))
    path.write_bytes(model.SerializeToString())
    update_manifest(folder, manifest)
    return folder


@pytest.mark.parametrize("kind", ["expanded", "tiled", "folded", "hoarded"])
def test_a_forged_graph_is_limited_to_the_memory_of_its_manifest(packed: Path, folder: Path, kind: str) -> None:
    message, _, usual = probed(packed)
    assert message == "measured"
    status, fault, peak = probed(forged(folder, kind))
    assert "it takes more memory than its manifest states" in status
    assert fault
    assert peak <= usual + MORE_MIB


def test_without_stated_memory_only_the_limit_of_the_child_applies(folder: Path) -> None:
    manifest = read_manifest(forged(folder, "expanded"))
    graphs = tuple(replace(graph, memory_mib=None) for graph in manifest.graphs)
    write_manifest(folder, replace(manifest, graphs=graphs))
    status, _, peak = probed(folder)
    assert "memory" not in status
    assert peak > 2048


def test_too_little_memory_of_the_machine_is_no_fault_of_the_bundle(folder: Path) -> None:
    status, fault, _ = probed(forged(folder, "expanded"), available=str(50 << 20))
    assert "52.4 MB are available" in status
    assert not fault


@pytest.mark.parametrize(
    ("number", "available", "fault"), [(9, 1 << 40, False), (6, 1 << 20, False), (6, 1 << 40, True)]
)
def test_a_kill_by_the_machine_is_no_fault_of_the_bundle(
    packed: Path, number: int, available: int, fault: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: available)
    all_candidates = verify.run_candidates(verify.check_integrity(packed), Environment("linux", "x86_64"))
    worker = (sys.executable, "-c", f"import os; os.kill(os.getpid(), {number})")
    result = probe.probe(on_ort_cpu(all_candidates), packed, read_manifest(packed), 0.0, worker)
    assert "was killed by SIG" in result.reason
    assert result.is_bundles_fault is fault


def test_a_start_above_the_stated_memory_is_a_failed_start(folder: Path, tmp_path: Path) -> None:
    install.install(forged(folder, "expanded"), tmp_path / "root", lambda _: None)
    message = "more memory than its manifest states"
    with pytest.raises(NotVerified, match=message) as caught, deploytool.device.open(tmp_path / "root"):
        pass
    assert "install onnxruntime" not in caught.value.remedy
    (failed,) = (tmp_path / "root" / "starts").rglob("failed-*")
    assert message in failed.read_text()


def candidate(memory_mib: int | None, device: str = "cpu") -> Candidate:
    return Candidate(
        Tier.ORT_CPU, "graph", 0, "", "onnxruntime", device, "", Precision.FP32, Precision.FP32, None, memory_mib
    )


@pytest.fixture
def limit() -> Iterator[tuple[int, int]]:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    yield before
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


def test_the_limit_applies_within_the_context_only(limit: tuple[int, int]) -> None:
    with bounded(candidate(64)):
        assert resource.getrlimit(resource.RLIMIT_DATA) != limit
    with pytest.raises(ChildDied, match="states, 64 MiB"), bounded(candidate(64)):
        bytearray(512 << 20)
    assert len(bytearray(512 << 20)) == 512 << 20


@pytest.mark.parametrize("unlimited", [candidate(None), candidate(64, "cuda")])
def test_no_limit_applies_on_a_gpu_or_without_stated_memory(unlimited: Candidate, limit: tuple[int, int]) -> None:
    with bounded(unlimited):
        assert resource.getrlimit(resource.RLIMIT_DATA) == limit


@pytest.mark.parametrize("error", [MemoryError(), OutOfMemory("bad_alloc", "")])
def test_the_error_depends_on_the_available_memory(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    for available, kind in ((1 << 40, ChildDied), (None, ChildDied), (1 << 20, ResourceExhausted)):
        monkeypatch.setattr(memory, "available_bytes", lambda available=available: available)
        with pytest.raises(kind), bounded(candidate(64)):
            raise error
    with pytest.raises(StageFailed, match="something else"), bounded(candidate(64)):
        raise StageFailed("something else", "")


def test_the_smallest_graph_is_valid() -> None:
    onnx.checker.check_model(onnx.load_from_string(bounds._SMALLEST_GRAPH))


def test_a_large_image_is_not_limited_by_the_manifest(packed: Path, tmp_path: Path) -> None:
    Image.new("RGB", (6000, 6000), (120, 60, 30)).save(tmp_path / "large.bmp")  # over 100 MB, also when decoded
    manifest = read_manifest(packed)
    (graph,) = [file for file in manifest.graphs if file.precision is Precision.FP32]
    path = packed / graph.path
    small = replace(candidate(32), path=str(path), size=path.stat().st_size, sha256=serde.file_digest(path))
    request = Request("answer", str(packed), manifest, small, "", pictures=(str(tmp_path / "large.bmp"),))
    assert worker._answer(request).findings.guesses
