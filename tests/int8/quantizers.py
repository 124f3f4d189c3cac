"""The peers of INT8: graphs as other quantisers make them with their default settings, on the same calibration cases.

`onnxruntime.quantization` runs here; nncf runs in an environment of its own, by this file:

    python -m tests.int8.quantizers GRAPH CASES.npz OUT.xml
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from onnxruntime import quantization
from onnxruntime.quantization import shape_inference

from deploytool.backends import openvino
from deploytool.backends.session import Array, Session
from deploytool.data.golden import Arrays
from deploytool.errors import MissingBackend

ROOT = Path(__file__).parents[2]
ENVIRONMENT = ROOT / "artifacts" / "nncf"  # made by `make nncf`


class _Cases:
    """Calibration cases, one after the other, as ONNX Runtime's quantiser reads them."""

    def __init__(self, cases: Sequence[Arrays]) -> None:
        self._cases = iter(cases)

    def get_next(self) -> Arrays | None:
        return next(self._cases, None)


def onnxruntime_defaults(graph: Path, cases: Sequence[Arrays], out: Path) -> Path:
    """What `quantize_static` makes of a graph after `quant_pre_process`, both with their defaults.

    Symbolic shapes are left out where they cannot be inferred, as the message of the failure advises.
    """
    logging.getLogger().setLevel(logging.ERROR)
    prepared = out.with_name(f"prepared_{out.name}")
    graph, prepared, folder = graph.resolve(), prepared.resolve(), Path.cwd()
    try:
        os.chdir(prepared.parent)  # a failure leaves files in the working folder
        shape_inference.quant_pre_process(graph, prepared)
    except Exception:  # it raises nothing more special
        shape_inference.quant_pre_process(graph, prepared, skip_symbolic_shape=True)
    finally:
        os.chdir(folder)
    quantization.quantize_static(prepared, out, _Cases(cases))
    return out


def nncf_defaults(graph: Path, cases: Sequence[Arrays], out: Path) -> Path:
    """What `nncf.quantize` makes of a graph with its defaults, as a model of OpenVINO; raises MissingBackend."""
    python, stored = ENVIRONMENT / "bin" / "python", out.with_suffix(".npz")
    if not python.exists():
        raise MissingBackend("nncf is not installed", "make nncf")
    np.savez(stored, allow_pickle=False, **{name: np.concatenate([case[name] for case in cases]) for name in cases[0]})
    command = [str(python), "-m", "tests.int8.quantizers", str(graph), str(stored), str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode or not out.exists():
        raise MissingBackend(f"nncf failed: {done.stderr.strip().splitlines()[-1:]}", "make nncf")
    return out


def nncf_version() -> str:
    """The version of nncf, or that it is missing."""
    found = sorted(ENVIRONMENT.glob("lib/python*/site-packages/nncf-*.dist-info"))
    return found[-1].name.removeprefix("nncf-").removesuffix(".dist-info") if found else "not installed"


@contextmanager
def onnxruntime_session(graph: Path | bytes, threads: int = 1) -> Iterator[Session]:
    """A session of ONNX Runtime with nothing set but the number of threads, as its users get it."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 4
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def call(**inputs: Array) -> dict[str, Array]:
        return dict(zip(names, session.run(None, inputs), strict=True))

    yield call


@contextmanager
def openvino_session(model: Path, threads: int = 1, *, kernels: bool = True) -> Iterator[Session]:
    """A session of OpenVINO with nothing set but the number of threads and FP32 for what is not INT8.

    Without `kernels` the model is computed in FP32 from its quantised values.
    """
    core = openvino.library().Core()
    settings: dict[str, object] = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    settings |= {} if kernels else {"LP_TRANSFORMS_MODE": False}
    compiled = core.compile_model(core.read_model(model), "CPU", settings)
    names = [output.get_any_name() for output in compiled.outputs]
    request = compiled.create_infer_request()

    def call(**inputs: Array) -> dict[str, Array]:
        request.infer(inputs, share_inputs=True)
        return {name: request.get_tensor(name).data.copy() for name in names}

    yield call


def _quantize(graph: str, cases: str, out: str) -> None:
    nncf: Any = import_module("nncf")
    library: Any = import_module("openvino")
    with np.load(cases) as file:
        arrays = {name: file[name] for name in file.files}
    count = len(next(iter(arrays.values())))
    items = [{name: array[index : index + 1] for name, array in arrays.items()} for index in range(count)]
    quantized = nncf.quantize(library.Core().read_model(graph), nncf.Dataset(items))
    library.save_model(quantized, out, compress_to_fp16=False)


if __name__ == "__main__":
    _quantize(*sys.argv[1:])
