"""Runs an ONNX graph with ONNX Runtime, on exactly the execution provider that is requested."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnxruntime as ort

from deploytool.backends.session import Array, Session, checked_outputs, in_batches, run_failure, until_end
from deploytool.errors import MissingBackend, OutOfMemory, StageFailed
from deploytool.host import machine

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
_OPTIONS = {"cpu": {}, "cuda": {"use_tf32": "0"}, "tensorrt": {"trt_fp16_enable": "1"}}  # on CUDA, FP32 means FP32
_FALLBACKS = {"cpu": (), "cuda": (), "tensorrt": ("cuda",)}  # CUDA runs the nodes that TensorRT does not support
_SHAPE_OPERATORS = frozenset(
    (
        *("Shape", "Size", "Gather", "Slice", "Concat", "Split", "Squeeze", "Unsqueeze", "Cast", "Range", "Reshape"),
        *("ConstantOfShape", "Expand", "Where", "Equal", "Less", "Greater", "Not", "Min", "Max", "ReduceProd"),
        *("Add", "Sub", "Mul", "Div", "Mod", "Neg", "Floor", "Ceil", "Round", "Identity", "Constant"),
    )
)  # ONNX Runtime itself leaves arithmetic on shapes to the CPU; for tensors, a GPU has a kernel for each of these
_OUT_OF_MEMORY = re.compile("bad[_ ]alloc|Failed to allocate memory|not enough memory|MemoryError", re.IGNORECASE)
_FOLDER = "session.model_external_initializers_file_folder_path"  # where side files are, for a graph in bytes
_EXACT_INTEGERS = ("session.x64quantprecision", "1")
_FP32_SUMS = ("session.qdq_matmulnbits_accuracy_level", "1")
_NO_WEIGHTS: Mapping[str, Array] = {}
_FATAL = 4  # log severity: ONNX Runtime prints lesser messages to stderr itself, and the exception has the reason


def fingerprint() -> str:
    """The version of ONNX Runtime."""
    return f"onnxruntime {ort.__version__}"


@contextmanager
def start(
    path: Path | bytes,
    device: str = "cpu",
    threads: int = 0,
    *,
    optimise: bool = True,
    batch_first: bool = True,
    weights: Mapping[str, Array] = _NO_WEIGHTS,
    folder: Path | None = None,
) -> Iterator[Session]:
    """Loads a graph, from a file or from its bytes, on "cpu", "cuda" or "tensorrt"; never falls back to another device.

    `threads` is the number of threads for one operator; 0 takes OMP_NUM_THREADS, as torch does, and without it ONNX
    Runtime chooses. `optimise` can be turned off on the CPU only. Without `batch_first`, the batch may be anywhere:
    inputs are not split into batches of a fixed size. A graph in bytes may name weights that are passed in `weights`,
    or that are in side files in `folder`.
    """
    options = _session_options(threads, optimise=optimise or device != "cpu")
    pass_weights(options, weights, folder)
    session = _session(path, device, options)
    del path, options, weights  # the session has a copy of the bytes
    names = [output.name for output in session.get_outputs()]

    def call(**inputs: Array) -> dict[str, Array]:
        try:
            arrays = session.run(names, inputs)
        except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
            failure = run_failure("ONNX Runtime", inputs, _reason(error))
            raise _error_class(error)(str(failure), failure.remedy) from error
        outputs = dict(zip(names, arrays, strict=True))
        return checked_outputs("ONNX Runtime", inputs, outputs) if batch_first else outputs

    with until_end(in_batches(call, session.get_inputs()[0].shape[:1]) if batch_first else call) as held:
        yield held


def set_arithmetic(options: ort.SessionOptions) -> None:
    """Makes the session compute what its graph says: sums of INT8 products are exact, and FP32 activations stay FP32.

    ONNX Runtime fuses a MatMul of FP32 activations and dequantised weights into MatMulNBits, which rounds the
    activations to INT8 unless it is told to add in FP32: an error of 0.5 % of the largest output.
    """
    options.add_session_config_entry(*_FP32_SUMS)
    forbid_saturation(options)


def forbid_saturation(options: ort.SessionOptions) -> None:
    """Makes sums of INT8 products exact, which saturate at 16 bits without this on x86 processors that have no VNNI.

    With VNNI they are exact anyway, and this would only choose slower kernels: MobileNet v1 takes twice as long.
    """
    if machine.saturates_int8():
        options.add_session_config_entry(*_EXACT_INTEGERS)


def pass_weights(options: ort.SessionOptions, weights: Mapping[str, Array], folder: Path | None) -> None:
    """Passes weights beside a graph in bytes: by name, or from the side files in a folder.

    Without a folder, ONNX Runtime would look for side files in the working folder.
    """
    if weights:
        tensors = [
            ort.OrtValue.ortvalue_from_numpy(np.require(array, requirements=("C", "A"))) for array in weights.values()
        ]
        options.add_external_initializers(list(weights), tensors)
    if folder is not None:
        options.add_session_config_entry(_FOLDER, str(folder))


def _session(path: Path | bytes, device: str, options: ort.SessionOptions) -> ort.InferenceSession:
    if _PROVIDERS[device] not in ort.get_available_providers():
        raise _unavailable(device, f"this build does not contain {_PROVIDERS[device]}")
    lists_nodes = hasattr(ort.InferenceSession, "get_provider_graph_assignment_info")  # from 1.24 on
    if device != "cpu":
        ort.preload_dlls()
        key = "session.record_ep_graph_assignment_info" if lists_nodes else "session.disable_cpu_ep_fallback"
        options.add_session_config_entry(key, "1")
    providers = [(_PROVIDERS[name], _OPTIONS[name]) for name in (device, *_FALLBACKS[device])]
    try:
        session = ort.InferenceSession(path, options, providers=providers)
    except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
        if device == "cpu":
            graph = path if isinstance(path, Path) else "the graph"
            remedy = "see the message, and check that the file is complete"
            raise _error_class(error)(f"ONNX Runtime cannot load {graph}: {error}", remedy) from error
        raise _unavailable(device, str(error)) from error
    if session.get_providers()[0] != _PROVIDERS[device]:
        raise _unavailable(device, f"it fell back to {session.get_providers()[0]}")
    if device != "cpu" and lists_nodes and (nodes := _nodes_on_cpu(session)):
        raise _unavailable(device, f"it runs {len(nodes)} nodes on the CPU, for example {nodes[0]}")
    return session


def _session_options(threads: int, *, optimise: bool) -> ort.SessionOptions:
    options = ort.SessionOptions()
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads or machine.thread_limit()
    options.log_severity_level = _FATAL
    set_arithmetic(options)
    options.add_session_config_entry("session.force_spinning_stop", "1")  # spinning threads would slow the next call
    return options


def _error_class(error: Exception) -> type[StageFailed]:
    """The class to raise for an error; ONNX Runtime reports a lack of memory in its message only."""
    return OutOfMemory if isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(str(error)) else StageFailed


def _nodes_on_cpu(session: ort.InferenceSession) -> list[str]:
    """The nodes on the CPU that are not arithmetic on shapes, each as its operator and name."""
    cpu = _PROVIDERS["cpu"]
    parts = [part for part in session.get_provider_graph_assignment_info() if part.ep_name == cpu]
    nodes = [node for part in parts for node in part.get_nodes()]
    return [f"{node.op_type} {node.name}" for node in nodes if node.op_type not in _SHAPE_OPERATORS]


def _reason(error: Exception) -> str:
    """The node and the reason in an error message, without the C++ function signatures between them."""
    text = str(error)
    node = re.search(r"running (\w+) node\. Name:('.*?')", text)
    reason = re.split(r"\] : \d+ : \w+ : |Status Message: |\) |was false\. ", text)[-1]
    return f"{node[1]} node {node[2]}: {reason}" if node else reason


def _unavailable(device: str, why: str) -> MissingBackend:
    if device == "tensorrt":
        return MissingBackend(
            f"ONNX Runtime cannot use TensorRT: {why}", "install the TensorRT release that it was built for"
        )
    return MissingBackend(f"ONNX Runtime cannot run on CUDA: {why}", "install the `gpu` extra and a CUDA 13 driver")
