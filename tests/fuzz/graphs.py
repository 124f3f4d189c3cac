"""Verifies bundles with mutated graphs: a device must refuse them or compute right outputs, within its limits."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from deploytool.backends.session import Array
from deploytool.bundle.manifest import SIGNATURE_FILE, read_manifest
from deploytool.data import golden
from deploytool.data.golden import Golden
from tests.fuzz import artifacts, judge, mutations
from tests.fuzz.artifacts import Artifacts
from tests.fuzz.judge import DEVICE_CLI, Case

_CODES = (0, 2, 3, 6, 7, 8)
_TOLERANCE = 1e-3
Run = Callable[[str, Mapping[str, Array]], Array]  # computes the output of a name


class Graphs:
    """One batch of mutated graphs."""

    name = "graphs"

    def __init__(self, original: Artifacts, scratch: Path) -> None:
        self.original, self.scratch, self.folder = original, scratch, scratch / "bundle"
        self.clean_tree = artifacts.tree(original.bundle)
        (scratch / "victim").mkdir()
        (scratch / "victim" / "file").write_bytes(b"not yours")
        artifacts.restore(self.clean_tree, self.folder)
        manifest = read_manifest(original.bundle)
        self.path = next(graph.path for graph in manifest.graphs if graph.precision == "fp32")
        self.raw = (original.bundle / self.path).read_bytes()
        self.sample = golden.read(original.bundle / manifest.golden.path)
        (scratch / "w.bin").write_bytes(bytes(1 << 16))
        judge.fork_workers()

    def clean(self, case: Case) -> None:
        """Verifies the original graph."""
        case.check("verify", judge.call(DEVICE_CLI, "verify", self.folder), (0,))

    def case(self, rng: random.Random) -> Case:
        """One mutated or corrupt graph."""
        kind, raw = mutations.mutated(self.raw, rng, mutations.MUTATIONS)
        case = Case(kind)
        (self.folder / self.path).write_bytes(raw)
        with suppress(OSError):
            (self.folder / SIGNATURE_FILE).unlink()
        artifacts.update_manifest(self.folder, read_manifest(self.original.bundle))
        result = case.check("verify", judge.call(DEVICE_CLI, "verify", self.folder, "--json"), _CODES)
        if result.code == 0:
            self._check_outputs(case, raw, result.stdout)
        if artifacts.tree(self.scratch / "victim") != {"file": ("file", b"not yours")}:
            case.add_fault("a file outside the bundle was changed")
        return case

    def _check_outputs(self, case: Case, raw: bytes, document: str) -> None:
        """Compares an accepted graph's outputs with the golden reference, in a child process that may crash."""
        tier = json.loads(document)["result"]["tier"]
        if tier not in _RUNNERS:
            case.add_fault("the bundle was not verified on the CPU")
            return
        child = os.fork()
        if not child:
            os._exit(self._compare(raw, _RUNNERS[tier](raw)))
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0:
            case.add_fault(f"{tier} accepted the graph and its outputs are wrong")

    def _compare(self, raw: bytes, run: Run) -> int:
        batch = onnx.load_from_string(raw).graph.input[0].type.tensor_type.shape.dim[0].dim_value
        for name, expected in self.sample.reference.items():
            output = _run_single_cases(run, name, self.sample, batch) if batch else run(name, self.sample.inputs)
            if not np.abs(output - expected).max() <= _TOLERANCE * np.abs(expected).max():
                return 1
        return 0


def _in_onnxruntime(raw: bytes) -> Run:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(raw, options, providers=["CPUExecutionProvider"])
    return lambda name, inputs: session.run([name], dict(inputs))[0]


def _in_openvino(raw: bytes) -> Run:
    core = import_module("openvino").Core()
    compiled = core.compile_model(core.read_model(raw, b""), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda name, inputs: np.array(compiled(dict(inputs))[name])


_RUNNERS: Mapping[str, Callable[[bytes], Run]] = {"ORT CPU": _in_onnxruntime, "OpenVINO CPU": _in_openvino}


def _run_single_cases(run: Run, name: str, sample: Golden, size: int) -> Array:
    """The output of a graph with a fixed batch, one case at a time."""
    inputs = ({key: array[[case] * size] for key, array in sample.inputs.items()} for case in range(len(sample.labels)))
    return np.concatenate([run(name, batch)[:1] for batch in inputs])
