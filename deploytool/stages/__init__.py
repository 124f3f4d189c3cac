"""How an artifact is made: one file a verb; this table says what each takes, makes and reads, without loading it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from deploytool.loading.stage_inputs import StageInputs
from deploytool.results.artifact import Kind, Notes
from deploytool.spec import Job, Stage
from deploytool.targets import DISTRIBUTIONS


class Maker(Protocol):
    """Satisfied by a module `stages/<verb>.py`."""

    def make(self, job: Job, out: Path, given: StageInputs) -> Notes:
        """Writes the artifact to `out` (and nothing outside its folder) and says what is worth knowing about it."""


@dataclass(frozen=True)
class Contract:
    """What a stage takes (and takes too where it is there), makes, and reads of the options.

    `libraries` are the distributions whose version changes what it makes; `here` says that this machine's devices do;
    `model`, that the model's own definition does, and not only what was made of it. `program` is the worker module that
    it runs in a child process, which can start while the stages before it work. `packages` are those of deploytool,
    beside `EVERYWHERE`, whose code the stage runs: an edit anywhere else makes nothing anew.

    `copies` is how many times the weights it leaves on the disk,
    and `engine_copies` how many times more for each engine: a file in FP16 is half of one.
    """

    takes: tuple[Kind, ...]
    makes: Kind
    reads: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    welcomes: tuple[Kind, ...] = ()
    here: bool = False
    model: bool = True
    program: str = ""
    copies: float = 0.0
    engine_copies: float = 0.0


EVERYWHERE = ("errors.py", "serde.py", "spec.py", "host", "results")  # what every stage stands on
_ORT = ("onnxruntime", "onnxruntime-gpu")

STAGES: Mapping[Stage, Contract] = {
    Stage.LOAD: Contract(
        (),
        Kind.WEIGHTS,
        ("seed", "weights", "trust_code", "sizes", "outputs", "fixed_batch", "inputs"),
        ("torch", "safetensors"),
        copies=1,
        packages=("backends", "data", "loading", "model_checks"),
    ),
    Stage.GOLDEN: Contract(
        (Kind.WEIGHTS,),
        Kind.GOLDEN,
        ("seed", "images", "data", "inputs", "cases", "sizes"),
        ("torch", "numpy", "pillow"),
        packages=("backends", "data", "loading", "parity"),
    ),
    Stage.TORCHSCRIPT: Contract(
        (Kind.WEIGHTS, Kind.GOLDEN),
        Kind.TORCHSCRIPT,
        ("sizes", "tolerance"),
        ("torch",),
        copies=1,
        packages=("backends", "data", "loading", "model_checks", "parity"),
    ),
    Stage.EXPORT: Contract(
        (Kind.WEIGHTS, Kind.GOLDEN),
        Kind.GRAPH,
        ("exporter", "opset", "runner", "sizes", "tolerance"),
        ("torch", "onnx", "onnxscript", *_ORT),
        copies=1,
        packages=("backends", "data", "exporters", "loading", "model_checks", "parity", "rewrites"),
    ),
    Stage.SIMPLIFY: Contract(
        (Kind.GRAPH, Kind.GOLDEN),
        Kind.GRAPH,
        ("runner", "sizes", "tolerance"),
        ("onnxsim", *_ORT),
        program="deploytool.rewrites.simplify_worker",
        copies=1,
        packages=("backends", "data", "loading", "parity", "rewrites", "targets.py"),
    ),
    Stage.REWRITE: Contract(
        (Kind.GRAPH, Kind.GOLDEN),
        Kind.GRAPH,
        ("rewrite", "rewrite_implied", "runner", "batch", "sizes", "targets", "tolerance"),
        ("onnx", *_ORT, *DISTRIBUTIONS),
        here=True,
        copies=2,  # the graph, and where it is another, the form for engines
        packages=("backends", "benchmark", "data", "loading", "parity", "precision", "rewrites", "targets.py"),
    ),
    Stage.FP16: Contract(
        (Kind.WEIGHTS, Kind.GOLDEN, Kind.GRAPH),
        Kind.GRAPH,
        ("io", "keep_fp32", "runner", "tolerance"),
        ("onnx", "safetensors", "numpy", *_ORT),
        program="deploytool.precision.session_worker",
        copies=0.5,
        packages=("backends", "data", "exporters", "loading", "parity", "precision", "rewrites", "targets.py"),
    ),
    Stage.KNOWN_ISSUES: Contract(
        (Kind.GOLDEN, Kind.GRAPH),
        Kind.PROBES,
        ("runner",),
        ("onnx", *_ORT),
        packages=("backends", "data", "known_issues", "loading", "parity"),
    ),
    Stage.BUILD: Contract(
        (Kind.GRAPH,),
        Kind.ENGINE,
        ("batch", "sizes", "engines"),
        DISTRIBUTIONS,
        welcomes=(Kind.PROBES,),
        here=True,
        engine_copies=0.5,
        packages=("backends", "data", "known_issues", "loading", "targets.py"),
    ),
    Stage.FAULTS: Contract(
        (Kind.WEIGHTS, Kind.GOLDEN, Kind.GRAPH),
        Kind.FAULTS,
        ("seed", "tolerance", "faults"),
        ("onnx", "pillow", *_ORT),
        packages=("backends", "data", "faults", "loading", "parity"),
    ),
    Stage.VALIDATE: Contract(
        (Kind.WEIGHTS, Kind.GOLDEN, Kind.GRAPH),
        Kind.REPORT,
        ("batch", "sizes", "data", "io", "runner", "seconds", "tolerance", "min_speedup", "targets"),
        ("torch", *_ORT, *DISTRIBUTIONS),
        welcomes=(Kind.TORCHSCRIPT, Kind.PROBES, Kind.ENGINE, Kind.FAULTS),
        here=True,
        packages=("backends", "benchmark", "data", "loading", "parity", "targets.py"),
    ),
    Stage.PACK: Contract(
        (Kind.WEIGHTS, Kind.GOLDEN, Kind.GRAPH, Kind.REPORT),
        Kind.BUNDLE,
        ("sequence",),
        ("onnx", "pillow"),
        welcomes=(Kind.ENGINE,),
        model=False,
        copies=1.5,
        engine_copies=0.5,
        packages=("bundle", "data", "loading", "parity", "rewrites", "targets.py"),
    ),
}


def import_stage(verb: Stage) -> Maker:
    """The stage called `verb`; its heavy library is imported here and not before."""
    return cast("Maker", import_module(f"deploytool.stages.{verb}"))
