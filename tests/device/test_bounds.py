"""A child takes no more memory than the manifest states, and a machine that has less is no fault of the bundle's."""

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

import deploytool.device
from deploytool.bundle.manifest import read_manifest, write_manifest
from deploytool.device import bounds, install, probe, verify
from deploytool.device.bounds import bounded
from deploytool.device.candidates import Candidate, Tier
from deploytool.device.environment import Environment
from deploytool.errors import ChildDied, NoRoom, NotVerified, OutOfMemory, StageFailed
from deploytool.host import memory
from deploytool.spec import Precision
from tests.conftest import ROOT
from tests.fuzz.ground import rehashed

MORE_MIB = 256
WIDE = 1 << 29  # numbers: 2 GiB

PROBED = """
import json, resource, sys
from pathlib import Path
from deploytool.bundle import manifest
from deploytool.device import probe, verify
from deploytool.device.environment import Here
folder, short = Path(sys.argv[1]), sys.argv[2]
worker = probe.WORKER
if short:
    worker = (sys.executable, "-c",
        "import sys; from deploytool.device import worker; from deploytool.host import memory;"
        f"memory.free = lambda: {short}; worker.main(sys.argv[1])")
way = verify.routes(verify.papers(folder), Here("linux", "x86_64"))[-1]
tried = probe.probe(way, folder, manifest.read_manifest(folder), 0.0, worker)
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10
print(json.dumps([tried.reason or tried.status.value, tried.is_bundles_fault, peak]))
"""


def probed(folder: Path, short: str = "") -> tuple[str, bool, int]:
    """What is said, the fault of the CPU's way, and the most MiB that its child held."""
    command = [sys.executable, "-c", PROBED, str(folder), short]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    status, fault, peak = json.loads(done.stdout)
    return status, fault, peak


def constant(model: ModelProto, name: str, *numbers: int) -> str:
    model.graph.initializer.append(numpy_helper.from_array(np.array(numbers, np.int64), name))
    return name


def expanded(model: ModelProto, source: str) -> list[NodeProto]:
    return [helper.make_node("Expand", [source, constant(model, "wide", WIDE)], ["much"])]


def tiled(model: ModelProto, source: str) -> list[NodeProto]:
    return [helper.make_node("Tile", [source, constant(model, "wide", WIDE)], ["much"])]


def folded(model: ModelProto, _: str) -> list[NodeProto]:
    """Of constants alone: ONNX Runtime makes it while it opens the graph."""
    return [helper.make_node("ConstantOfShape", [constant(model, "wide", WIDE)], ["much"])]


def hoarded(model: ModelProto, source: str) -> list[NodeProto]:
    """Many tensors, each no larger than a sound one may be, all kept until the end."""
    wide = constant(model, "wide", 1 << 23)
    names = [f"part{number}" for number in range(64)]
    nodes = []
    for name in names:  # of a number each: what is the same twice is made once
        nodes.append(helper.make_node("Sin", [source], [f"of_{name}"]))
        nodes.append(helper.make_node("Expand", [source := f"of_{name}", wide], [name]))
    return [*nodes, helper.make_node("Max", names, ["much"])]


@pytest.fixture
def folder(packed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(packed, tmp_path / "bundle"))


def forged(folder: Path, kind: str) -> Path:
    """A bundle whose FP32 graph takes 2 GiB beside what it computes, with a manifest that names its bytes."""
    manifest = read_manifest(folder)
    path = folder / next(graph.path for graph in manifest.graphs if graph.precision == "fp32")
    model = onnx.load(path)
    nodes = {"expanded": expanded, "tiled": tiled, "folded": folded, "hoarded": hoarded}[kind]
    source = model.graph.node[-1].input[0]
    model.graph.node.append(helper.make_node("ReduceMax", [source], ["scalar"], keepdims=0))
    model.graph.node.append(helper.make_node("Reshape", ["scalar", constant(model, "flat", 1)], ["one"]))
    model.graph.node.extend(nodes(model, "one"))
    model.graph.node.append(helper.make_node("ReduceMax", ["much"], ["most"], keepdims=0))
    model.graph.output.append(helper.make_empty_tensor_value_info("most"))
    path.write_bytes(model.SerializeToString())
    rehashed(folder, manifest)
    return folder


@pytest.mark.parametrize("kind", ["expanded", "tiled", "folded", "hoarded"])
def test_a_forged_graph_gets_no_more_memory_than_its_manifest_states(packed: Path, folder: Path, kind: str) -> None:
    said, _, usual = probed(packed)
    assert said == "measured"
    status, fault, peak = probed(forged(folder, kind))
    assert "it takes more memory than its manifest states" in status
    assert fault
    assert peak <= usual + MORE_MIB


def test_a_manifest_that_states_nothing_leaves_the_limit_of_any_child(folder: Path) -> None:
    manifest = read_manifest(forged(folder, "expanded"))
    graphs = tuple(replace(graph, memory_mib=None) for graph in manifest.graphs)
    write_manifest(folder, replace(manifest, graphs=graphs))
    status, _, peak = probed(folder)
    assert "memory" not in status
    assert peak > 2048


def test_a_machine_with_little_memory_condemns_no_bundle(folder: Path) -> None:
    status, fault, _ = probed(forged(folder, "expanded"), short=str(50 << 20))
    assert "there are 52.4 MB" in status
    assert not fault


@pytest.mark.parametrize(("number", "there", "fault"), [(9, 1 << 40, False), (6, 1 << 20, False), (6, 1 << 40, True)])
def test_whom_the_machine_kills_is_not_to_blame(
    packed: Path, number: int, there: int, fault: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: there)
    routes = verify.run_candidates(verify.check_integrity(packed), Environment("linux", "x86_64"))
    worker = (sys.executable, "-c", f"import os; os.kill(os.getpid(), {number})")
    tried = probe.probe(routes[-1], packed, read_manifest(packed), 0.0, worker)
    assert "was killed by SIG" in tried.reason
    assert tried.is_bundles_fault is fault


def test_a_start_that_takes_too_much_counts(folder: Path, tmp_path: Path) -> None:
    install.install(forged(folder, "expanded"), tmp_path / "root", lambda _: None)
    said = "more memory than its manifest states"
    with pytest.raises(NotVerified, match=said) as caught, deploytool.device.open(tmp_path / "root"):
        pass
    assert "install onnxruntime" not in caught.value.remedy
    (failed,) = (tmp_path / "root" / "starts").rglob("failed-*")
    assert said in failed.read_text()


def way(memory_mib: int | None, device: str = "cpu") -> Candidate:
    return Candidate(
        Tier.ORT_CPU, "graph", 0, "", "onnxruntime", device, "", Precision.FP32, Precision.FP32, None, memory_mib
    )


@pytest.fixture
def limit() -> Iterator[tuple[int, int]]:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    yield before
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


def test_the_bound_holds_within_and_no_longer(limit: tuple[int, int]) -> None:
    with bounded(way(64)):
        assert resource.getrlimit(resource.RLIMIT_DATA) != limit
    with pytest.raises(ChildDied, match="states, 64 MiB"), bounded(way(64)):
        bytearray(512 << 20)
    assert len(bytearray(512 << 20)) == 512 << 20


@pytest.mark.parametrize("free", [way(None), way(64, "cuda")])
def test_a_gpu_and_what_states_nothing_have_no_bound(free: Candidate, limit: tuple[int, int]) -> None:
    with bounded(free):
        assert resource.getrlimit(resource.RLIMIT_DATA) == limit


@pytest.mark.parametrize("error", [MemoryError(), OutOfMemory("bad_alloc", "")])
def test_who_is_to_blame_follows_from_what_the_machine_has(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    for there, kind in ((1 << 40, ChildDied), (None, ChildDied), (1 << 20, NoRoom)):
        monkeypatch.setattr(memory, "available_bytes", lambda there=there: there)
        with pytest.raises(kind), bounded(way(64)):
            raise error
    with pytest.raises(StageFailed, match="something else"), bounded(way(64)):
        raise StageFailed("something else", "")


def test_the_least_graph_is_one() -> None:
    onnx.checker.check_model(onnx.load_from_string(bounds._LEAST))
