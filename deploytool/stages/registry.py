"""The table of stages: what each one requires, produces and depends on, known without importing the stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from deploytool.loading.stage_inputs import StageInputs
from deploytool.results.artifact import Kind, Notes
from deploytool.spec import Job, SourceKind, Stage
from deploytool.targets import DISTRIBUTIONS


class StageModule(Protocol):
    """The interface of a module `stages/<module>.py`."""

    def make(self, job: Job, out: Path, inputs: StageInputs) -> Notes:
        """Writes the artifact to `out`, and no file outside its directory; returns the notes for its receipt."""


@dataclass(frozen=True)
class Contract:
    """What a stage requires and produces, and what its cache key covers.

    `requires`: kinds of artifact without which the stage cannot run; `optional`: those that it uses if they exist.
    `produces`: the kind of artifact that it writes.
    `options`: names of the options that it reads.
    `libraries`: distributions whose version changes its result.
    `packages`: packages and modules of deploytool whose code it runs, beside `COMMON_PACKAGES`; an edit to any other
    one does not invalidate the artifact.
    `uses_device`: whether the CPU and GPUs of this machine change its result.
    `uses_model`: whether it reads the model definition itself, and not only artifacts.
    `module`: the name of its file, if that is not the name of the stage.
    `worker`: the module that it runs in a child process, which can be started while earlier stages run.
    `copies`: size of its files on disk in multiples of the weights; `engine_copies`: the same for each engine. A file
    in FP16 is half a copy.
    """

    requires: tuple[Kind, ...]
    produces: Kind
    options: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    optional: tuple[Kind, ...] = ()
    uses_device: bool = False
    uses_model: bool = True
    module: str = ""
    worker: str = ""
    copies: float = 0.0
    engine_copies: float = 0.0


COMMON_PACKAGES = (
    "builder_settings.py",
    "errors.py",
    "serde.py",
    "spec.py",
    "host",
    "results",
    "tasks",
)  # every stage runs their code
_ORT = ("onnxruntime", "onnxruntime-gpu")

STAGES: Mapping[Stage, Contract] = {
    Stage.LOAD: Contract(
        (),
        Kind.WEIGHTS,
        ("seed", "weights", "trust_code", "sizes", "outputs", "fixed_batch", "inputs"),
        ("torch", "safetensors"),
        copies=1,
        packages=("backends", "data", "loading", "model_checks", "rewrites"),
    ),
    Stage.GOLDEN: Contract(
        (Kind.WEIGHTS,),
        Kind.GOLDEN,
        ("seed", "images", "data", "inputs", "cases", "sizes"),
        ("torch", "numpy", "pillow"),
        packages=("backends", "data", "loading", "model_checks", "parity", "rewrites"),
    ),
    Stage.TORCHSCRIPT: Contract(
        (Kind.WEIGHTS, Kind.GOLDEN),
        Kind.TORCHSCRIPT,
        ("sizes", "tolerance"),
        ("torch",),
        copies=1,
        packages=("backends", "data", "loading", "model_checks", "parity", "rewrites"),
    ),
    Stage.EXPORT: Contract(
        (Kind.WEIGHTS, Kind.GOLDEN),
        Kind.GRAPH,
        ("exporter", "opset", "floor", "runner", "sizes", "tolerance"),
        ("torch", "onnx", "onnxscript", *_ORT),
        copies=1,
        packages=("backends", "data", "exporters", "loading", "model_checks", "parity", "rewrites", "runtimes.py"),
    ),
    Stage.SIMPLIFY: Contract(
        (Kind.GRAPH, Kind.GOLDEN),
        Kind.GRAPH,
        ("runner", "sizes", "tolerance"),
        ("onnxsim", *_ORT),
        worker="deploytool.rewrites.simplify_worker",
        copies=1,
        packages=("backends", "data", "loading", "parity", "rewrites", "targets.py"),
    ),
    Stage.REWRITE: Contract(
        (Kind.GRAPH, Kind.GOLDEN),
        Kind.GRAPH,
        ("rewrite", "rewrite_implied", "runner", "batch", "sizes", "targets", "tolerance"),
        ("onnx", *_ORT, "openvino", *DISTRIBUTIONS),
        uses_device=True,
        copies=3,  # the graph, and those for engines and for OpenVINO if they differ
        packages=("backends", "benchmark", "data", "loading", "parity", "precision", "rewrites", "targets.py"),
    ),
    Stage.CALIBRATE: Contract(
        (Kind.WEIGHTS, Kind.GOLDEN, Kind.GRAPH),
        Kind.RANGES,
        ("seed", "sizes", "batch", "rewrite", "data", "calibration"),
        ("numpy", "onnx", "pillow", *_ORT, "openvino"),
        packages=("backends", "benchmark", "data", "loading", "precision", "rewrites"),
    ),
    Stage.FP16: Contract(
        (Kind.WEIGHTS, Kind.GOLDEN, Kind.GRAPH),
        Kind.GRAPH,
        ("io", "keep_fp32", "runner", "tolerance"),
        ("onnx", "safetensors", "numpy", *_ORT),
        worker="deploytool.precision.session_worker",
        copies=0.5,
        packages=("backends", "data", "exporters", "loading", "parity", "precision", "rewrites", "targets.py"),
    ),
    Stage.BF16: Contract(
        (Kind.WEIGHTS, Kind.GOLDEN, Kind.GRAPH),
        Kind.BF16_GRAPH,
        ("keep_fp32",),
        ("torch", "onnx", "ml-dtypes", "numpy", *_ORT),
        copies=0.5,
        engine_copies=0.5,  # the build stage makes as many engines from this graph as from that in FP16
        packages=("backends", "data", "exporters", "loading", "parity", "precision", "rewrites"),
    ),
    Stage.INT8: Contract(
        (Kind.WEIGHTS, Kind.GOLDEN, Kind.GRAPH, Kind.RANGES),
        Kind.INT8_GRAPH,
        ("seed", "sizes", "calibration", "keep"),
        ("numpy", "onnx", "pillow", *_ORT, *DISTRIBUTIONS),
        uses_device=True,
        copies=1,
        packages=("backends", "data", "exporters", "loading", "metrics", "parity", "precision", "rewrites"),
    ),
    Stage.FP8: Contract(
        (Kind.WEIGHTS, Kind.GOLDEN, Kind.GRAPH, Kind.RANGES),
        Kind.FP8_GRAPH,
        ("seed", "sizes", "calibration", "keep"),
        ("numpy", "onnx", "ml-dtypes", "pillow", *_ORT),
        copies=0.5,
        engine_copies=0.5,
        packages=("backends", "data", "exporters", "loading", "metrics", "parity", "precision", "rewrites"),
    ),
    Stage.KNOWN_ISSUES: Contract(
        (Kind.GOLDEN, Kind.GRAPH),
        Kind.PROBES,
        ("batch", "runner"),
        ("onnx", *_ORT),
        packages=("backends", "data", "known_issues", "loading", "parity", "rewrites"),
    ),
    Stage.BUILD: Contract(
        (Kind.GRAPH,),
        Kind.ENGINE,
        ("batch", "sizes", "engines", "builder"),
        DISTRIBUTIONS,
        optional=(Kind.PROBES, Kind.BF16_GRAPH, Kind.INT8_GRAPH, Kind.FP8_GRAPH),
        uses_device=True,
        engine_copies=0.5,
        packages=("backends", "data", "known_issues", "loading", "precision", "rewrites", "targets.py"),
    ),
    Stage.FAULTS: Contract(
        (Kind.WEIGHTS, Kind.GOLDEN, Kind.GRAPH),
        Kind.FAULTS,
        ("seed", "tolerance", "faults"),
        ("onnx", "pillow", *_ORT),
        packages=("backends", "data", "faults", "loading", "parity", "rewrites"),
    ),
    Stage.METRIC: Contract(
        (Kind.WEIGHTS, Kind.GRAPH),
        Kind.MEASURES,
        ("seed", "batch", "sizes", "data", "labels", "io", "runner", "tolerance", "metric", "max_drop"),
        ("torch", "numpy", "pillow", *_ORT, *DISTRIBUTIONS),
        optional=(Kind.GOLDEN, Kind.TORCHSCRIPT, Kind.BF16_GRAPH, Kind.INT8_GRAPH, Kind.FP8_GRAPH, Kind.ENGINE),
        uses_device=True,
        packages=("backends", "data", "loading", "metrics", "parity", "rewrites", "targets.py", "tasks"),
    ),
    Stage.VALIDATE: Contract(
        (Kind.WEIGHTS, Kind.GOLDEN, Kind.GRAPH),
        Kind.REPORT,
        (
            *("batch", "sizes", "data", "io", "runner", "seconds", "tolerance", "min_speedup", "targets", "builder"),
            "precision",
        ),
        ("torch", *_ORT, *DISTRIBUTIONS),
        optional=(
            Kind.TORCHSCRIPT,
            Kind.BF16_GRAPH,
            Kind.INT8_GRAPH,
            Kind.FP8_GRAPH,
            Kind.PROBES,
            Kind.ENGINE,
            Kind.FAULTS,
            Kind.MEASURES,
        ),
        uses_device=True,
        packages=("backends", "benchmark", "data", "loading", "parity", "rewrites", "targets.py"),
    ),
    Stage.PACK: Contract(
        (Kind.WEIGHTS, Kind.GOLDEN, Kind.GRAPH, Kind.REPORT),
        Kind.BUNDLE,
        ("sequence", "tool", "wheels"),
        ("onnx", "pillow"),
        optional=(Kind.ENGINE, Kind.BF16_GRAPH, Kind.INT8_GRAPH, Kind.FP8_GRAPH),
        uses_model=False,
        copies=1.5,
        engine_copies=0.5,
        packages=("bundle", "data", "loading", "parity", "rewrites", "runtimes.py", "targets.py"),
    ),
}


GIVEN_GRAPH: Mapping[Stage, Contract] = {
    Stage.LOAD: replace(
        STAGES[Stage.LOAD],
        options=("sizes", "outputs", "fixed_batch", "inputs"),
        libraries=("torch", "safetensors", "onnx", *_ORT),
        packages=(*STAGES[Stage.LOAD].packages, "runtimes.py"),
        module="load_graph",
    ),
    Stage.EXPORT: replace(
        STAGES[Stage.EXPORT],
        options=("opset", "opset_stated", "floor", "runner", "sizes", "tolerance"),
        libraries=("torch", "onnx", *_ORT),
        packages=("backends", "data", "exporters", "loading", "parity", "rewrites", "runtimes.py"),
        module="export_graph",
    ),
    Stage.INT8: replace(
        STAGES[Stage.INT8],
        requires=(Kind.WEIGHTS, Kind.GOLDEN, Kind.GRAPH),
        optional=(Kind.RANGES,),
    ),
}  # the stages that are others for a given ONNX file


def contract(stage: Stage, source: SourceKind) -> Contract:
    """The contract of a stage for a model of that kind."""
    return (GIVEN_GRAPH if source is SourceKind.GRAPH else STAGES).get(stage, STAGES[stage])


def file_name(stage: Stage, source: SourceKind) -> str:
    """The name of a stage's module in this package, for a model of that kind."""
    return contract(stage, source).module or stage.value


def import_stage(name: str) -> StageModule:
    """The module of that name; only this call imports its heavy libraries."""
    return cast("StageModule", import_module(f"deploytool.stages.{name}"))
