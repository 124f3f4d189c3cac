"""The configuration with which NVIDIA's Triton Inference Server serves a model out of the bundle as it lies."""

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


def graph(name: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor], io: Precision, largest: int) -> str:
    """The `config.pbtxt` of an ONNX graph; `largest` is the largest batch."""
    return _text(name, "onnxruntime_onnx", largest, inputs, outputs, io, "")


def engines(
    name: str,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    io: Precision,
    largest: int,
    plans: Mapping[str, str],
) -> str:
    """The `config.pbtxt` of TensorRT plans, each by the compute capability it is for.

    It names no default, so that a GPU with another capability gets no plan instead of a wrong one.
    """
    pairs = [f'  {{ key: "{capability}" value: "{file}" }}' for capability, file in sorted(plans.items())]
    files = "cc_model_filenames [\n" + ",\n".join(pairs) + "\n]\n"
    return _text(name, "tensorrt_plan", largest, inputs, outputs, io, files)


def _text(
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


def _tensors(word: str, tensors: Sequence[Tensor], io: Precision) -> str:
    return f"{word} [\n" + ",\n".join(_tensor(tensor, io) for tensor in tensors) + "\n]\n"


def _quoted(text: str) -> str:
    return json.dumps(text)  # whose escapes are those of protobuf's text format too


def _tensor(tensor: Tensor, io: Precision) -> str:
    """Without the batch, which Triton adds; a free size is -1."""
    dtype = "float16" if io is Precision.FP16 and tensor.dtype == "float32" else tensor.dtype
    sides = ", ".join(str(side) if isinstance(side, int) else "-1" for side in tensor.shape[1:])
    dims = f"dims: [ {sides} ]" if sides else "dims: [ 1 ] reshape: { shape: [ ] }"  # Triton has no empty dims
    return f"  {{ name: {_quoted(tensor.name)} data_type: {_TYPES[dtype]} {dims} }}"
