"""Compares the files of an export with the library's own model in FP64, without any code of deploytool.

Run as a program with a row's name, the folder that its maker filled, and that of the run; prints one JSON object. An
FP16 graph is run as an FP32 graph that rounds every result to FP16, as `truth` does.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

from tests.foreign import truth
from tests.foreign.graphs.rows import ROWS, Origin, Row

CASES, TOKENS = 2, 20
_ORT_TYPES = {"tensor(float16)": "float16", "tensor(float)": "float32", "tensor(double)": "float64"}
_TYPES = {1: "float32", 7: "int64", 6: "int32", 9: "bool", 10: "float16", 11: "float64", 2: "uint8", 3: "int8"}


def main(row: Row, made: Path, run: Path) -> dict[str, Any]:
    """The errors of the FP32 and the FP16 graph, relative to the largest value of each output, and the counts."""
    full, half = run / "rewrite" / "model.onnx", run / "fp16" / "model.onnx"
    graph = onnx.load(full)
    arrays = draw(graph, bound(row, made), stated_sizes(row))
    arrays |= {name: np.full_like(arrays[name], value) for name, value in row.values}
    exact = given(row, made, arrays) if row.model.endswith(".onnx") else reference(row, made, arrays)
    found: dict[str, Any] = {"fp32": _error(graph, arrays, exact, fp16=False)}
    narrow = onnx.load(half)
    found["fp16"] = _error(truth.emulate_fp16(narrow), arrays, exact, fp16=True)
    narrow_given = row.model.endswith(".onnx") and any(
        value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT16
        for value in onnx.load(made / "model.onnx", load_external_data=False).graph.input
    )
    found["grain"] = 2.0**-10 if narrow_given else 0.0  # what the rounding of a given FP16 file may move its answers
    return {**found, "nodes": len(narrow.graph.node), "outputs": [value.name for value in graph.graph.output]}


def bound(row: Row, made: Path) -> int:
    """The size of the vocabulary: that of the configuration, or the bound in a row's arguments; otherwise 2."""
    if row.origin is not Origin.TRANSFORMERS:
        bounds = [argument.rpartition(":")[2] for argument in row.arguments if argument.count(":") == 2]
        return int(bounds[0]) if bounds else 2
    config = json.loads((made / "config.json").read_text())
    return int(config.get("vocab_size") or config.get("text_config", {}).get("vocab_size") or 2)


def stated_sizes(row: Row) -> dict[str, int]:
    """The typical size of each dynamic dimension that the row's arguments state."""
    texts = [argument.partition("=") for argument in row.arguments if "=" in argument and "x" not in argument]
    sizes = {word: text.split(":") for word, _, text in texts if text.replace(":", "").isdecimal()}
    return {"samples": 8000, **{word: int(ends[len(ends) // 2]) for word, ends in sizes.items()}}


def draw(graph: onnx.ModelProto, vocabulary: int, stated: Mapping[str, int]) -> dict[str, truth.Array]:
    """Inputs for a graph: token ids, a mask with a padded tail in the second case, and noise."""
    rng = np.random.default_rng(4711)
    arrays: dict[str, truth.Array] = {}
    weights = {weight.name for weight in graph.graph.initializer}
    for value in graph.graph.input:
        if value.name in weights:
            continue
        sides = [side.dim_value or side.dim_param for side in value.type.tensor_type.shape.dim]
        shape = [CASES if number == 0 and not isinstance(side, int) else side for number, side in enumerate(sides)]
        sizes = [side if isinstance(side, int) else stated.get(str(side), TOKENS) for side in shape]
        kind = np.dtype(_TYPES[value.type.tensor_type.elem_type])
        if "mask" in value.name:
            array = np.ones(sizes, kind)
            array[-1, ..., sizes[-1] - sizes[-1] // 3 :] = 0
        elif kind.kind == "f":
            array = rng.standard_normal(sizes).astype(kind)
        else:
            array = rng.integers(0, vocabulary if _is_tokens(value.name) else 2, sizes).astype(kind)
        arrays[value.name] = array
    return arrays


def _is_tokens(name: str) -> bool:
    return (name.endswith("ids") and "type" not in name) or name == "bytes"


def reference(row: Row, made: Path, arrays: Mapping[str, truth.Array]) -> dict[str, truth.Array]:
    """The answers of the library's own model in FP64, by name as far as they have one."""
    tensors = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
    wide = {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    module = _module(row, made).eval()
    with torch.no_grad():
        try:
            result = module.double()(*wide.values()) if row.origin is Origin.TIMM else module(**wide)
        except RuntimeError:  # code that asks for FP32: its answers in FP32 are the reference
            module = _module(row, made).eval()
            result = module(**tensors)
    return {name: tensor.numpy() for name, tensor in _flat(result, "")}


def given(row: Row, made: Path, arrays: Mapping[str, truth.Array]) -> dict[str, truth.Array]:
    """The answers of a given graph in ONNX Runtime without optimisations, case by case, with the case first.

    Inputs and outputs are matched by their order; a graph without a batch axis gets one case without it.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(made / "model.onnx", options, providers=["CPUExecutionProvider"])
    axes = dict(row.axes)
    ours, theirs = list(arrays), {value.name: _ORT_TYPES.get(value.type, "") for value in session.get_inputs()}
    names = [value.name for value in session.get_outputs()]
    cases = []
    for case in range(len(next(iter(arrays.values())))):
        feeds = {}
        for own, name in zip(ours, theirs, strict=True):
            one, axis = arrays[own][case : case + 1], axes.get(name, 0)
            placed = np.asarray(one[0]) if axis < 0 else np.moveaxis(one, 0, axis)
            feeds[name] = placed.astype(theirs[name] or placed.dtype)
        answers = dict(zip(names, session.run(None, feeds), strict=True))
        cases.append({name: _case_first(answer, axes.get(name, 0)) for name, answer in answers.items()})
    return {name: np.concatenate([case[name] for case in cases]) for name in names}


def _case_first(answer: truth.Array, axis: int) -> truth.Array:
    return answer[None] if axis < 0 else np.moveaxis(answer, axis, 0)


def _module(row: Row, made: Path) -> torch.nn.Module:
    if row.origin is Origin.TIMM:
        import timm
        from safetensors.torch import load_file

        module: torch.nn.Module = timm.create_model(row.model.partition(":")[2], **dict(row.create))
        module.load_state_dict(load_file(made / "weights.safetensors"))
        return module
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    architecture = json.loads((made / "config.json").read_text())["architectures"][0]
    whole: torch.nn.Module = getattr(transformers, architecture).from_pretrained(made, attn_implementation="eager")
    part = next((argument.rpartition("=")[2] for argument in row.arguments if "part=" in argument), "")
    return (whole.get_submodule(part) if part else whole).double()


def _flat(value: Any, name: str) -> list[tuple[str, torch.Tensor]]:
    """The tensors in a result by the path of their keys."""
    if isinstance(value, torch.Tensor):
        return [(name or "logits", value)]
    if isinstance(value, Mapping):
        return [pair for key, item in value.items() for pair in _flat(item, f"{name}.{key}".lstrip("."))]
    if isinstance(value, (tuple, list)):
        return [pair for key, item in enumerate(value) for pair in _flat(item, f"{name}.{key}".lstrip("."))]
    return []


def _error(
    graph: onnx.ModelProto, arrays: Mapping[str, truth.Array], exact: Mapping[str, truth.Array], *, fp16: bool
) -> dict[str, float]:
    """The largest error of each output, relative to its largest value."""
    names = [value.name for value in graph.graph.output]
    kinds = {
        value.name: _TYPES[value.type.tensor_type.elem_type] for value in graph.graph.input if value.name in arrays
    }
    feeds = [arrays[name].astype(kind) for name, kind in kinds.items()]
    answers = truth.run(graph, {"only": feeds}, fp16=fp16)["only"]
    errors = {}
    for name, answer in zip(names, answers, strict=True):
        expected = exact.get(name)
        if expected is not None and answer.dtype.kind in "iub":
            errors[name] = 0.0 if np.array_equal(expected, answer) else float("inf")
            continue
        if expected is None and len(exact) == len(names):
            expected = list(exact.values())[names.index(name)]
        if expected is None or expected.shape != answer.shape:
            errors[name] = float("inf")
            continue
        scale = float(np.abs(expected).max()) or 1.0
        errors[name] = float(np.abs(answer.astype(np.float64) - expected).max()) / scale
    return errors


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    chosen = next(row for row in ROWS if row.name == sys.argv[1])
    print(json.dumps(main(chosen, Path(sys.argv[2]), Path(sys.argv[3]))))
