"""An ONNX graph as ONNX Runtime runs it, on exactly the provider that was asked for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnxruntime as ort

from deploytool.backends.session import Array, Session, checked_outputs, in_batches, run_failure
from deploytool.errors import MissingBackend, OutOfMemory, StageFailed

_PROVIDER = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
_SETTINGS = {"cpu": {}, "cuda": {"use_tf32": "0"}, "tensorrt": {"trt_fp16_enable": "1"}}  # on CUDA, FP32 means FP32
_BESIDE = {"cpu": (), "cuda": (), "tensorrt": ("cuda",)}  # CUDA takes the nodes that TensorRT leaves
_CPU = _PROVIDER["cpu"]
_OF_SHAPES = frozenset(
    (
        *("Shape", "Size", "Gather", "Slice", "Concat", "Split", "Squeeze", "Unsqueeze", "Cast", "Range", "Reshape"),
        *("ConstantOfShape", "Expand", "Where", "Equal", "Less", "Greater", "Not", "Min", "Max", "ReduceProd"),
        *("Add", "Sub", "Mul", "Div", "Mod", "Neg", "Floor", "Ceil", "Round", "Identity", "Constant"),
    )
)  # ONNX Runtime itself leaves to the CPU what works on shapes; of tensors, a GPU has a kernel for each of these
_SHORT = re.compile("bad[_ ]alloc|Failed to allocate memory|not enough memory|MemoryError", re.IGNORECASE)
_FATAL = 4  # log severity: ONNX Runtime prints lesser messages on stderr by itself, the exception says enough


def fingerprint() -> str:
    """The version of ONNX Runtime."""
    return f"onnxruntime {ort.__version__}"


@contextmanager
def start(path: Path | bytes, device: str = "cpu", threads: int = 0, *, optimise: bool = True) -> Iterator[Session]:
    """The graph of a file, or in its bytes, on the CPU, CUDA or TensorRT; silently it never becomes a lesser one.

    `threads` are those that share one operator, 0 being as many as ONNX Runtime thinks best. Not to `optimise` holds
    for the CPU alone.
    """
    session = _session(path, device, threads, optimise or device != "cpu")
    del path  # its bytes, which the session has a copy of
    names = [output.name for output in session.get_outputs()]

    def call(**inputs: Array) -> dict[str, Array]:
        try:
            made = session.run(names, inputs)
        except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
            failure = run_failure("ONNX Runtime", inputs, _reason(error))
            raise _kind(error)(str(failure), failure.remedy) from error
        return checked_outputs("ONNX Runtime", inputs, dict(zip(names, made, strict=True)))

    yield in_batches(call, session.get_inputs()[0].shape[:1])


def _session(path: Path | bytes, device: str, threads: int = 0, optimise: bool = True) -> ort.InferenceSession:
    options = ort.SessionOptions()
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads
    options.log_severity_level = _FATAL
    options.add_session_config_entry("session.force_spinning_stop", "1")  # after a run: idle threads slow a rival
    if _PROVIDER[device] not in ort.get_available_providers():
        raise _lost(device, f"this build of it has no {_PROVIDER[device]}")
    if device != "cpu":
        ort.preload_dlls()
        told = hasattr(ort.InferenceSession, "get_provider_graph_assignment_info")  # from 1.24 on
        key = "session.record_ep_graph_assignment_info" if told else "session.disable_cpu_ep_fallback"
        options.add_session_config_entry(key, "1")
    wanted = [(_PROVIDER[each], _SETTINGS[each]) for each in (device, *_BESIDE[device])]
    try:
        session = ort.InferenceSession(path, options, providers=wanted)
    except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
        if device == "cpu":
            what = path if isinstance(path, Path) else "the graph"
            remedy = "see its message; is the file whole?"
            raise _kind(error)(f"ONNX Runtime refuses {what}: {error}", remedy) from error
        raise _lost(device, str(error)) from error
    if session.get_providers()[0] != _PROVIDER[device]:
        raise _lost(device, f"it fell back to {session.get_providers()[0]}")
    if device != "cpu" and told and (left := _left_to_cpu(session)):
        raise _lost(device, f"it leaves {len(left)} nodes to the CPU, {left[0]} among them")
    return session


def _kind(error: Exception) -> type[StageFailed]:
    """Which failure of ours an error is; ONNX Runtime says only in words that it lacks memory."""
    return OutOfMemory if isinstance(error, MemoryError) or _SHORT.search(str(error)) else StageFailed


def _left_to_cpu(session: ort.InferenceSession) -> list[str]:
    """The nodes that the CPU computes though they are no work on shapes, each with its operator."""
    parts = [part for part in session.get_provider_graph_assignment_info() if part.ep_name == _CPU]
    nodes = [node for part in parts for node in part.get_nodes()]
    return [f"{node.op_type} {node.name}" for node in nodes if node.op_type not in _OF_SHAPES]


def _reason(error: Exception) -> str:
    """The node and what it says, without the signatures of C++ functions between them."""
    text = str(error)
    node = re.search(r"running (\w+) node\. Name:('.*?')", text)
    said = re.split(r"\] : \d+ : \w+ : |Status Message: |\) |was false\. ", text)[-1]
    return f"{node[1]} node {node[2]}: {said}" if node else said


def _lost(device: str, why: str) -> MissingBackend:
    if device == "tensorrt":
        return MissingBackend(f"ONNX Runtime cannot use TensorRT: {why}", "install the TensorRT release it is made for")
    return MissingBackend(f"ONNX Runtime cannot run on CUDA: {why}", "install the `gpu` extra and a CUDA 13 driver")
