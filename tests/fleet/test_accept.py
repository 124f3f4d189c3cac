"""A bundle goes to a device only if that device may run it: 5,000 drawn pairs against the rules stated anew."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from deploytool import releases
from deploytool.bundle.manifest import Engine, Graph, Manifest, Role, read_manifest
from deploytool.device import candidates as device_candidates
from deploytool.device.arguments import MinimumBackend
from deploytool.device.candidates import ACCEPTED_TIERS
from deploytool.device.environment import Environment
from deploytool.device.install import Pointer
from deploytool.device.state import DeviceState
from deploytool.fleet import accept
from deploytool.fleet.accept import Demand
from deploytool.spec import Precision
from deploytool.targets import TARGETS
from tests.fleet import rigs
from tests.transfer import small

DIGEST = "d" * 64
CAPABILITY = {"rtx20": 7.5, "a100": 8.0, "rtx30": 8.6, "orin": 8.7, "rtx40": 8.9, "h100": 9.0, "thor": 11.0}
TENSORRT = ("8.5.2", "8.6.2", "10.0.1", "10.3.0", "10.13.3", "10.16.2", "11.4.1", "odd")
ORT = ("", "1.10.0", "1.16.3", "1.18.0", "1.19.2", "1.22.1", "1.24.0", "1.32.0", "unknown")
OLDEST_ORT = {18: 15, 21: 18, 24: 24}  # the minor release that first reads each opset that is drawn


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return read_manifest(small.make_bundle(tmp_path_factory.mktemp("pairs") / "bundle", 1))


def drawn_manifest(chance: random.Random, manifest: Manifest) -> Manifest:
    model = manifest.engines[0]
    engines = tuple(
        replace(
            model,
            flavour=chance.choice(("tensorrt", "tensorrt", "tensorrt_rtx")),
            version=chance.choice(("10.3.0", "10.13.3", "1.7.1")),
            capabilities=tuple(chance.sample(("8.0", "8.6", "8.7", "8.9", "11.0"), chance.randint(1, 3))),
            systems=chance.choice((("linux",), ("linux", "windows"))),
            processors=chance.choice((("aarch64",), ("x86_64",), ("aarch64", "x86_64"))),
            cuda=chance.choice(("", "", "12.6", "13.0")),
        )
        for _ in range(chance.randint(0, 2))
    )
    opset, version = chance.choice(((18, 8), (18, 8), (21, 10), (24, 11)))
    graphs = tuple(
        Graph(f"{precision}.onnx", precision, Precision.FP32, version, opset)
        for precision in (Precision.FP32, chance.choice((Precision.FP16, Precision.BF16)))
    )
    files = manifest.files
    if chance.random() < 0.1:
        files = (*files, replace(files[0], path="models/m/1/weights.bin", role=Role.WEIGHTS))
    return replace(manifest, engines=engines, graphs=graphs, files=files, sequence=chance.randint(1, 3))


def drawn_state(chance: random.Random) -> DeviceState:
    jetson = chance.choice((None, None, *releases.RELEASES))
    capability = chance.choice(("", "7.5", "8.0", "8.6", "8.7", "8.9", "11.0"))
    if jetson:
        capability = chance.choice(jetson.capabilities)
    tensorrt = {"tensorrt": jetson.tensorrt if jetson else chance.choice(TENSORRT)} if chance.random() < 0.7 else {}
    tensorrt |= {"tensorrt_rtx": "1.7.1"} if chance.random() < 0.2 else {}
    environment = Environment(
        system=chance.choice(("linux", "linux", "linux", "windows")),
        processor="aarch64" if jetson else chance.choice(("aarch64", "x86_64", "armv7l")),
        gpu="a GPU" if capability else "",
        capability=capability,
        cuda=chance.choice(("11.4", "12.6", "13.2", "")) if capability else "",
        tensorrt=tensorrt,
        onnxruntime=chance.choice(ORT),
        openvino=chance.choice(("", "", "2026.4.1")),
    )
    refused = {DIGEST: "it failed to start"} if chance.random() < 0.05 else {}
    pointer = Pointer("a" * 64, None, chance.randint(1, 3), refused) if chance.random() < 0.5 else None
    return replace(rigs.state(environment), jetpack=jetson, pointer=pointer)


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")) if version.replace(".", "").isdigit() else ()


def engine_fits(engine: Engine, here: Environment) -> bool:
    installed: Mapping[str, str] = here.tensorrt or {}
    return (
        here.system in engine.systems
        and here.processor in engine.processors
        and here.capability in engine.capabilities
        and (not engine.cuda or (here.cuda != "" and numbers(here.cuda) >= numbers(engine.cuda)))
        and installed.get(engine.flavour) == engine.version
    )


def reads(version: str, graphs: Sequence[Graph]) -> bool:
    """ONNX Runtime 1.15 is the oldest that is known; opset 21 came with 1.18, and opset 24 with 1.24."""
    parts = numbers(version)
    return len(parts) > 1 and all(parts[:2] >= (1, OLDEST_ORT[graph.opset]) for graph in graphs)


def builds(graph: Graph, state: DeviceState) -> bool:
    here, installed = state.environment, state.environment.tensorrt or {}
    if not here.capability or (state.jetpack and numbers(state.jetpack.tensorrt) < (10, 3)):
        return False
    if state.jetpack and numbers(state.jetpack.python) < (3, 10):
        return False
    if graph.precision is Precision.BF16 and float(here.capability) < 8:
        return False
    if "tensorrt" in installed:
        version = numbers(installed["tensorrt"])
        return version[:2] >= ((10, 3) if graph.opset == 18 else (10, 15))
    return "tensorrt_rtx" in installed and here.capability in ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")


def allowed(demand: Demand, state: DeviceState, target: str) -> bool:
    """The rules once more, without the code of the project."""
    here, manifest = state.environment, demand.manifest
    if state.pointer and (manifest.sequence < state.pointer.sequence or DIGEST in state.pointer.refused):
        return False
    if target and (not here.capability or float(here.capability) != CAPABILITY[target]):
        return False
    need = demand.require.value if demand.require else ("trt" if target else "cpu")
    if any(engine_fits(engine, here) for engine in manifest.engines):
        return True
    if demand.build and builds(manifest.graphs[1], state):
        return True
    runs = reads(here.onnxruntime, manifest.graphs)
    if need == "cpu":
        has_side_files = any(file.path.endswith(".bin") for file in manifest.files)
        return runs or (here.openvino != "" and not has_side_files)
    return need == "cuda" and runs and here.capability != ""


def test_no_wrong_answer_in_5000_drawn_pairs(manifest: Manifest) -> None:
    chance, counts = random.Random(21), Counter[tuple[bool, str]]()
    for _ in range(5000):
        bundle, state = drawn_manifest(chance, manifest), drawn_state(chance)
        target = chance.choice(("", "", "orin", "orin", *CAPABILITY))
        if target and chance.random() < 0.5:
            same = {f"{value:.1f}": name for name, value in CAPABILITY.items()}
            target = same.get(state.environment.capability, target)
        require = chance.choice((None, None, *MinimumBackend))
        demand = Demand(DIGEST, bundle, bundle.graphs[1].path, require, chance.random() < 0.3)
        reason = accept.refusal(demand, state, target)
        assert (reason is None) is allowed(demand, state, target), (reason, target, demand, state)
        counts[reason is None, str(demand.minimum(target))] += 1
    assert min(counts[accepted, need] for accepted in (True, False) for need in ("trt", "cuda", "cpu")) > 50, counts


def test_the_backends_of_an_accepted_device_are_those_that_it_would_try(manifest: Manifest, tmp_path: Path) -> None:
    """The device's own list of candidates has an acceptable one, unless an engine is still to be built there."""
    chance, compared = random.Random(4), 0
    for path in (engine.file.path for engine in manifest.engines):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    for _ in range(1500):
        bundle, state = drawn_manifest(chance, manifest), drawn_state(chance)
        bundle = replace(bundle, graphs=manifest.graphs)  # the device reads their files
        demand = Demand(DIGEST, bundle, bundle.graphs[0].path, chance.choice(tuple(MinimumBackend)), False)
        if accept.refusal(demand, state, "") is None:
            none_built = device_candidates.unavailable(device_candidates.Tier.BUILT, "none")
            listed = device_candidates.candidates(tmp_path, bundle, state.environment, none_built)
            tiers = ACCEPTED_TIERS[demand.minimum("")]
            assert any(each.absent is None and each.tier in tiers for each in listed), (demand, state)
            compared += 1
    assert compared > 200


def test_every_target_of_the_test_is_one_of_the_project() -> None:
    assert {name: float(TARGETS[name].capability) for name in CAPABILITY} == CAPABILITY


def test_the_reason_names_what_is_wrong(manifest: Manifest) -> None:
    demand = Demand(DIGEST, manifest, "")
    thor = releases.of_l4t("38.2.0")
    assert thor is not None
    state = rigs.state(replace(rigs.ORIN, tensorrt={"tensorrt": thor.tensorrt}))
    reason = accept.refusal(demand, replace(state, jetpack=thor), "orin") or ""
    assert reason.startswith(
        "JetPack 7.0: no backend there runs the bundle: it was built by tensorrt 10.3.0, and 10.13.3"
    )
    old = replace(rigs.state(replace(rigs.ORIN, tensorrt={"tensorrt": "8.6.2"})), jetpack=releases.of_l4t("36.3.0"))
    reason = accept.refusal(replace(demand, engine_graph=manifest.graphs[0].path, build=True), old, "orin") or ""
    assert reason.endswith("graphs only: it has TensorRT 8.6.2, and engines need 10.3")
    newer = replace(state, pointer=Pointer("a" * 64, None, 2))
    assert accept.refusal(demand, newer, "") == "the bundle has sequence 1, and 2 was installed there"
    assert accept.refusal(demand, rigs.state(rigs.ORIN), "orin") is None
