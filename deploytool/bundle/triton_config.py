"""Writes the configuration with which NVIDIA's Triton Inference Server serves a model from the bundle's folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from deploytool.spec import Precision, Tensor

_TYPES = {
    "float32": "TYPE_FP32",
    "float64": "TYPE_FP64",
    "float16": "TYPE_FP16",
    "int64": "TYPE_INT64",
    "int32": "TYPE_INT32",
    "int16": "TYPE_INT16",
    "int8": "TYPE_INT8",
    "uint8": "TYPE_UINT8",
    "bool": "TYPE_BOOL",
}


def graph_config(name: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor], io: Precision, largest: int) -> str:
    """The `config.pbtxt` of an ONNX graph; `largest` is the largest batch."""
    return _config(name, "onnxruntime_onnx", largest, inputs, outputs, io, "")


def engine_config(
    name: str,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    io: Precision,
    largest: int,
    plans: Mapping[str, str],
) -> str:
    """The `config.pbtxt` of TensorRT plans, by the compute capability of each.

    It names no default plan, so that Triton refuses a GPU of another capability instead of loading a wrong plan.
    """
    pairs = [f'  {{ key: "{capability}" value: "{file}" }}' for capability, file in sorted(plans.items())]
    files = "cc_model_filenames [\n" + ",\n".join(pairs) + "\n]\n"
    return _config(name, "tensorrt_plan", largest, inputs, outputs, io, files)


def _config(
    name: str,
    platform: str,
    largest: int,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    io: Precision,
    files: str,
) -> str:
    head = f'name: {_quoted(name)}\nplatform: "{platform}"\nmax_batch_size: {largest}\n'
    return head + files + _tensors("input", inputs, io) + _tensors("output", outputs, io)


def _tensors(field: str, tensors: Sequence[Tensor], io: Precision) -> str:
    return f"{field} [\n" + ",\n".join(_tensor(tensor, io) for tensor in tensors) + "\n]\n"


def _quoted(text: str) -> str:
    return json.dumps(text)  # protobuf's text format has the same escapes


def _tensor(tensor: Tensor, io: Precision) -> str:
    """One tensor without its batch axis, which Triton adds; a dynamic size is -1."""
    dtype = "float16" if io is Precision.FP16 and tensor.dtype == "float32" else tensor.dtype
    sizes = ", ".join(str(size) if isinstance(size, int) else "-1" for size in tensor.shape[1:])
    dims = f"dims: [ {sizes} ]" if sizes else "dims: [ 1 ] reshape: { shape: [ ] }"  # Triton allows no empty dims
    return f"  {{ name: {_quoted(tensor.name)} data_type: {_TYPES[dtype]} {dims} }}"
