"""Starts each of ONNX Runtime's providers on a graph of one node, in a child process: its own list proves nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from deploytool.errors import ChildFailed, StageFailed
from deploytool.host import worker_programs
from deploytool.host.process import run_limited

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"

# An ONNX model, as bytes: y = Abs(x), one float.
_GRAPH = (
    "08083a320a0b0a017812017922034162731201675a0f0a0178120a0a0808"
    "0112040a020802620f0a0179120a0a08080112040a02080242040a00100d"
)
_SECONDS, _GIBIBYTES = 60.0, 8.0
_LIST = "import json, onnxruntime; print(json.dumps(onnxruntime.get_available_providers()))"
_TRY = """
import ctypes, pathlib, re, sys
import numpy, onnxruntime

def lost(why):
    # ONNX Runtime says that a provider is gone, and the loader says why
    kind = {"CUDAExecutionProvider": "cuda", "TensorrtExecutionProvider": "tensorrt"}.get(name)
    folder = pathlib.Path(onnxruntime.__file__).parent / "capi"
    try:
        for each in ("shared", kind) if kind else ():
            ctypes.CDLL(str(folder / f"libonnxruntime_providers_{each}.so"), ctypes.RTLD_GLOBAL)
    except OSError as error:
        why = str(error)
    sys.exit(re.sub(r"^\\[ONNXRuntimeError\\] : \\d+ : \\w+ : ", "", " ".join(why.split())))

graph, name = bytes.fromhex(sys.argv[1]), sys.argv[2]
options = onnxruntime.SessionOptions()
options.log_severity_level = 4
if name != "CPUExecutionProvider":
    onnxruntime.preload_dlls()
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
try:
    session = onnxruntime.InferenceSession(graph, options, providers=[name])
    first, x = session.get_providers()[0], numpy.array([-3.0, 2.0], numpy.float32)
    said = session.run(None, {"x": x})[0].tolist()
except Exception as error:
    lost(str(error))
if first != name:
    lost("it falls back to " + first)
if said != [3.0, 2.0]:
    sys.exit("it computes something else: %s" % said)
"""
_LOAD = """
import ctypes
for major in range(8, 20):
    try:
        ctypes.CDLL("libnvinfer.so.%d" % major)
    except OSError:
        continue
    print(major)
"""

Run = Callable[[Sequence[str], float], str]


@dataclass(frozen=True)
class Provider:
    """A provider that ONNX Runtime lists: whether it `starts`, that is, computes something here, or why it does not."""

    name: str
    starts: bool
    reason: str = ""


def _child(arguments: Sequence[str], gibibytes: float) -> str:
    program, *rest = arguments
    return run_limited(worker_programs.command(program, *rest), what="it", seconds=_SECONDS, gibibytes=gibibytes)


def tried(run: Run = _child) -> tuple[Provider, ...]:
    """Every listed provider that deploytool uses, and whether it starts; the CPU's alone if it cannot even list."""
    try:
        listed = json.loads(run([_LIST], _GIBIBYTES))
    except (StageFailed, ValueError) as error:
        return (Provider(CPU, False, f"onnxruntime cannot be imported: {error}"),)
    return tuple(_started(name, run) for name in (TENSORRT, CUDA, CPU) if name in listed)


def _started(name: str, run: Run) -> Provider:
    try:
        run([_TRY, _GRAPH, name], _GIBIBYTES if name == CPU else math.inf)  # CUDA reserves what it likes
    except ChildFailed as error:
        return Provider(name, False, error.said)
    except StageFailed as error:
        return Provider(name, False, str(error))
    return Provider(name, True)


def loads(run: Run = _child) -> tuple[str, ...]:
    """The major releases of the full TensorRT that the system's loader finds."""
    try:
        return tuple(run([_LOAD], math.inf).split())
    except StageFailed:
        return ()
