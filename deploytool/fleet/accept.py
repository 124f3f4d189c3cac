"""Decides whether a device may get a bundle, from the manifest and the state of the device alone; nothing is sent."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from deploytool import runtimes
from deploytool.bundle.manifest import Graph, Manifest, Role
from deploytool.device.arguments import MinimumBackend
from deploytool.device.environment import Environment, mismatch
from deploytool.device.state import DeviceState
from deploytool.targets import FLAVOURS, TARGETS, TENSORRT, precision_problem

_OLDEST_TENSORRT = (10, 3)  # that engines are built with


@dataclass(frozen=True)
class Demand:
    """What a rollout demands: the digest and the manifest of the bundle, and the path of the graph of its engines.

    `require` is the minimum acceptable backend; None is `trt` for a device with a target, and `cpu` for others. With
    `build`, an engine is built on the device.
    """

    digest: str
    manifest: Manifest
    engine_graph: str
    require: MinimumBackend | None = None
    build: bool = False

    def minimum(self, target: str) -> MinimumBackend:
        """The minimum acceptable backend for a device with a target, or without one."""
        return self.require or (MinimumBackend.TRT if target else MinimumBackend.CPU)


def refusal(demand: Demand, state: DeviceState, target: str) -> str | None:
    """Why a device must not get the bundle; None if it may, as far as that is known without running it.

    `target` is the target that the device is configured as, empty if it has none.
    """
    return _history(demand, state) or _other_gpu(state.environment, target) or _no_backend(demand, state, target)


def _history(demand: Demand, state: DeviceState) -> str | None:
    """Why what is installed there forbids the bundle."""
    pointer = state.pointer
    if pointer is None:
        return None
    if demand.manifest.sequence < pointer.sequence:
        return f"the bundle has sequence {demand.manifest.sequence}, and {pointer.sequence} was installed there"
    if demand.digest in pointer.refused:
        return f"the bundle was given up there: {pointer.refused[demand.digest]}"
    return None


def _other_gpu(environment: Environment, target: str) -> str | None:
    """Why the device is not the target that it is configured as."""
    if not target:
        return None
    capability = TARGETS[target].capability
    if not environment.capability:
        return f"it is configured as {target}, and no CUDA GPU answers there"
    if environment.capability != capability:
        found = f"{environment.gpu} has {environment.capability}"
        return f"it is configured as {target} with compute capability {capability}, and {found}"
    return None


def _no_backend(demand: Demand, state: DeviceState, target: str) -> str | None:
    """Why no acceptable backend can run the bundle there."""
    reasons = [_no_engine(demand.manifest, state), _no_build(demand, state)]
    if None in reasons:
        return None
    minimum = demand.minimum(target)
    if minimum is not MinimumBackend.TRT:
        graphs = _no_graphs(demand.manifest, state.environment, minimum)
        if graphs is None:
            return None
        reasons.append(graphs)
    jetpack = f"JetPack {state.jetpack.jetpack}: " if state.jetpack else ""
    return f"{jetpack}no backend there runs the bundle: {'; '.join(filter(None, reasons))}"


def _no_engine(manifest: Manifest, state: DeviceState) -> str | None:
    """Why no engine of the bundle runs there; of several reasons that of the engine for its GPU."""
    reasons = {engine: mismatch(engine, state.environment) for engine in manifest.engines}
    if None in reasons.values():
        return None
    own = [why for engine, why in reasons.items() if state.environment.capability in engine.capabilities]
    return next(iter([*own, *reasons.values()]), None) or "the bundle contains no engine"


def _no_build(demand: Demand, state: DeviceState) -> str | None:
    """Why no engine can be built there, in the order of `deploytool.device.build`."""
    if not demand.build:
        return "building one there was not asked for"
    if state.jetpack and state.jetpack.refusal:
        return state.jetpack.refusal
    here = state.environment
    if not here.capability:
        return "an engine is built on the GPU that runs it, and none answers"
    usable = (name for name, flavour in FLAVOURS.items() if here.version(name) and flavour.supports(here.capability))
    name = next(usable, None)
    if name is None:
        return f"no TensorRT there builds engines for {here.gpu}"
    graph = next(graph for graph in demand.manifest.graphs if graph.path == demand.engine_graph)
    reasons = (_too_old(here.version(name), graph) if name == TENSORRT else None, _precision(here, graph))
    return next(filter(None, reasons), None)


def _too_old(version: str, graph: Graph) -> str | None:
    """Why a release of TensorRT cannot build the graph."""
    release = runtimes.release(version)
    if release is None or release < _OLDEST_TENSORRT:
        return f"TensorRT {version} is there, and engines need {'.'.join(map(str, _OLDEST_TENSORRT))}"
    return runtimes.refusal(runtimes.TRT, version, graph.ir_version, graph.opset)


def _precision(environment: Environment, graph: Graph) -> str | None:
    return precision_problem(environment.capability, graph.precision)


def _no_graphs(manifest: Manifest, environment: Environment, minimum: MinimumBackend) -> str | None:
    """Why no runtime there runs the graphs."""
    if minimum is MinimumBackend.CUDA and not environment.capability:
        return "no CUDA GPU answers there"
    runtime = environment.onnxruntime
    if runtime and runtimes.newest(runtimes.ORT, runtime) is None:
        reason = f"ONNX Runtime {runtime} is older than {runtimes.oldest_known(runtimes.ORT)}"
    else:
        reason = next(_unread(manifest, runtime), "") if runtime else "ONNX Runtime is not installed"
    in_openvino = minimum is MinimumBackend.CPU and environment.openvino and not _has_side_files(manifest)
    return None if in_openvino else reason or None


def _has_side_files(manifest: Manifest) -> bool:
    """Whether weights are beside the graph, from where OpenVINO cannot take them verified."""
    return any(file.role is Role.WEIGHTS for file in manifest.files)


def _unread(manifest: Manifest, version: str) -> Iterator[str]:
    """Why this ONNX Runtime does not read a graph, for each that it does not."""
    for graph in manifest.graphs:
        if why := runtimes.refusal(runtimes.ORT, version, graph.ir_version, graph.opset):
            yield why
