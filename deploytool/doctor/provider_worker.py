"""Lists ONNX Runtime's providers, or starts one of them, in a child process, because a broken one can crash it."""

from __future__ import annotations

import ctypes
import json
import os
import re
from pathlib import Path

import numpy as np
import onnxruntime

_LIBRARIES = {"CUDAExecutionProvider": "cuda", "TensorrtExecutionProvider": "tensorrt"}


def main(graph: str = "", provider: str = "") -> None:
    """Writes the names of the available providers to stdout, as JSON; with a graph starts one provider on it.

    `graph` is an ONNX model in hexadecimal that computes y = Abs(x) of two floats. Exits with the reason if the
    provider does not start or gives another result.
    """
    if not graph:
        os.write(1, json.dumps(onnxruntime.get_available_providers()).encode())
        return
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if provider != "CPUExecutionProvider":
        onnxruntime.preload_dlls()
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        session = onnxruntime.InferenceSession(bytes.fromhex(graph), options, providers=[provider])
        first, x = session.get_providers()[0], np.array([-3.0, 2.0], np.float32)
        answer = session.run(None, {"x": x})[0].tolist()
    except Exception as error:  # ONNX Runtime's exceptions share no other base class
        raise SystemExit(_reason(provider, str(error))) from error
    if first != provider:
        raise SystemExit(_reason(provider, f"it falls back to {first}"))
    if answer != [3.0, 2.0]:
        raise SystemExit(f"wrong result: {answer}")


def _reason(provider: str, problem: str) -> str:
    """Returns why a provider does not start: the loader's message if its library does not load, else `problem`."""
    kind, folder = _LIBRARIES.get(provider), Path(onnxruntime.__file__).parent / "capi"
    try:
        for name in ("shared", kind) if kind else ():
            ctypes.CDLL(str(folder / f"libonnxruntime_providers_{name}.so"), ctypes.RTLD_GLOBAL)
    except OSError as error:
        problem = str(error)
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", " ".join(problem.split()))
