"""Compares exported files in ONNX Runtime with PyTorch in FP64, without any code of deploytool.

An FP16 graph is run as an FP32 graph that rounds every result to FP16, with all optimisations off: the outputs of a GPU
that has no wider intermediate results.
"""

from __future__ import annotations

import copy
import importlib.util
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper

from tests.foreign.table import Input

Array = np.ndarray[tuple[Any, ...], np.dtype[Any]]
CASES = 4
FLOAT16 = TensorProto.FLOAT16
PERTURBATIONS = 24  # perturbed copies of a network that makes choices
MAX_RATIO = 10.0  # channels whose magnitudes differ by more are compared as separate parts
MIN_RELATIVE_SIZE = 0.1  # of a part's typical magnitude: the errors of smaller outputs are relative to this
SENTINEL = 1e4  # times the typical magnitude: larger values are sentinels, such as -1e9 in a mask


@dataclass(frozen=True)
class Deviation:
    """The deviation of a file's outputs: the largest relative error of any part, and where it is.

    `changed` is the largest share of different elements in an integer output; `fault` is why nothing was measured.
    """

    file: str
    fp16: bool
    error: float
    where: str
    changed: float
    fault: str = ""


def network(path: Path, factory: str, size: int, seed: int) -> torch.nn.Module:
    """The network of a factory, in evaluation mode."""
    spec = importlib.util.spec_from_file_location(f"foreign_{path.stem}", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    net: torch.nn.Module = getattr(module, factory)(size=size, seed=seed)
    return net.eval()


def make_inputs(inputs: Sequence[Input], seed: int) -> dict[str, list[Array]]:
    """Inputs that deploytool does not use: images or noise, noise, zeros, a constant and small values.

    The typical magnitude of an output is measured on images where the inputs are images. The second set of noise has
    three times the amplitude where they are not, because the scale of such inputs is unknown.
    """
    rng = np.random.default_rng(90_000 + seed)
    fresh = [_random_images(spec, rng) if _is_rgb(spec) else _random_array(spec, rng) for spec in inputs]
    return {
        "fresh": fresh,
        "fresh again": [_random_array(spec, rng, 1.0 if len(spec.shape) == 3 else 3.0) for spec in inputs],
        "zeros": [np.zeros_like(array) for array in fresh],
        "constant": [np.full_like(array, 1 if array.dtype.kind in "iu" else 0.5) for array in fresh],
        "quiet": [array if array.dtype.kind in "iu" else _scale_down(array) for array in fresh],
    }


def _is_rgb(spec: Input) -> bool:
    return spec.dtype == "float32" and len(spec.shape) == 3 and spec.shape[0] == 3


def _random_images(spec: Input, rng: np.random.Generator) -> Array:
    """Images of overlapping coloured boxes with some noise, quantised to 8 bits and normalised as for ImageNet."""
    _, height, width = spec.shape
    pixels = np.empty((CASES, 3, height, width))
    for image in pixels:
        image[:] = rng.uniform(0, 255, (3, 1, 1))
        for _ in range(24):
            top, left = rng.integers(0, height), rng.integers(0, width)
            bottom, right = top + rng.integers(2, height), left + rng.integers(2, width)
            image[:, top:bottom, left:right] = rng.uniform(0, 255, (3, 1, 1))
    levels = np.clip(pixels + rng.normal(0, 4, pixels.shape), 0, 255).round() / 255
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    normalised: Array = ((levels - mean[:, None, None]) / std[:, None, None]).astype(np.float32)
    return normalised


def _scale_down(array: Array) -> Array:
    """The array with a small amplitude; images keep more of theirs, because a camera has 8-bit levels."""
    scaled: Array = array * np.float32(0.05 if array.ndim == 4 and array.shape[1] == 3 else 1e-3)
    return scaled


def _random_array(spec: Input, rng: np.random.Generator, amplitude: float = 1.0) -> Array:
    shape = (CASES, *spec.shape)
    if spec.dtype in ("float32", "float16"):
        return (amplitude * rng.standard_normal(shape)).astype(spec.dtype)
    return rng.integers(0, spec.below, shape).astype(spec.dtype)


def flatten(output: object) -> Iterator[Array]:
    """Every tensor of a module's output, in order."""
    if isinstance(output, torch.Tensor):
        yield output.detach().numpy()
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from flatten(value)
    elif isinstance(output, (tuple, list)):
        for value in output:
            yield from flatten(value)
    elif is_dataclass(output):
        yield from flatten(vars(output))


def expected(net: torch.nn.Module, inputs: Mapping[str, list[Array]]) -> dict[str, list[Array]]:
    """The network's outputs in FP64; the network stays in FP64."""
    exact = net.double()
    with torch.no_grad():
        return {name: list(flatten(exact(*(_double(array) for array in arrays)))) for name, arrays in inputs.items()}


def perturbed_outputs(
    net: torch.nn.Module, inputs: Mapping[str, list[Array]], amount: float
) -> list[dict[str, list[Array]]]:
    """The FP64 outputs of a network with its weights and inputs perturbed by the relative `amount`, as by rounding.

    A network that makes choices (top-k, nearest code) may choose differently at a tie; each of these outputs is right.
    """
    original = copy.deepcopy(net.state_dict())
    outputs = []
    for seed in range(PERTURBATIONS):
        rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
        for weight in net.parameters():
            weight.data *= 1 + amount * torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
        perturbed = {
            name: [
                array * (1 + amount * rng.standard_normal(array.shape)) if array.dtype.kind == "f" else array
                for array in arrays
            ]
            for name, arrays in inputs.items()
        }
        outputs.append(expected(net, perturbed))
        net.load_state_dict(original)
    return outputs


def accept_alternatives(
    outputs: Mapping[str, list[Array]],
    reference: Mapping[str, list[Array]],
    alternatives: Sequence[Mapping[str, list[Array]]],
) -> dict[str, list[Array]]:
    """The outputs, with elements that match an alternative replaced by the reference.

    An element matches if an alternative is at least ten times closer to it than the reference is.
    """
    accepted: dict[str, list[Array]] = {}
    for name, arrays in reference.items():
        accepted[name] = []
        for number, exact in enumerate(arrays):
            output = outputs[name][number]
            distance = np.abs(output.astype(np.float64) - exact)
            others = [np.abs(output.astype(np.float64) - alternative[name][number]) for alternative in alternatives]
            is_match = (np.min(others, axis=0) < 0.1 * distance) & (output.shape == exact.shape)
            accepted[name].append(np.where(is_match, exact, output))
    return accepted


def rounding_error(
    net: torch.nn.Module, inputs: Mapping[str, list[Array]], reference: Mapping[str, list[Array]]
) -> float:
    """The error of a network in FP64 with random FP32 rounding errors in each layer, as from other summation orders."""
    worst = 0.0
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        layers = [module for module in net.modules() if not list(module.children())]
        hooks = [layer.register_forward_hook(_noise_hook(generator)) for layer in layers]
        worst = max(worst, compare("rounding", expected(net, inputs), reference, fp16=False).error)
        for hook in hooks:
            hook.remove()
    return worst


def _noise_hook(generator: torch.Generator) -> Callable[[torch.nn.Module, object, object], object]:
    def hook(_: torch.nn.Module, __: object, output: object) -> object:
        if not isinstance(output, torch.Tensor) or not output.is_floating_point():
            return None
        return output * (1 + 2.0**-23 * torch.randn(output.shape, generator=generator, dtype=output.dtype))

    return hook


def fp32_error(
    net: torch.nn.Module, inputs: Mapping[str, list[Array]], reference: Mapping[str, list[Array]]
) -> Deviation:
    """The deviation of the network's own FP32 outputs, which is not a fault of a file."""
    with torch.no_grad():
        outputs = {name: list(flatten(net(*(tensor(array) for array in arrays)))) for name, arrays in inputs.items()}
    return compare("eager", outputs, reference, fp16=False)


def tensor(array: Array) -> torch.Tensor:
    """A copy of the array as a tensor; a network may write into its inputs."""
    return torch.from_numpy(array.copy())


def _double(array: Array) -> torch.Tensor:
    return torch.from_numpy(array.astype(np.float64) if array.dtype.kind == "f" else array.copy())


def judge(
    file: Path,
    inputs: Mapping[str, list[Array]],
    reference: Mapping[str, list[Array]],
    alternatives: Sequence[Mapping[str, list[Array]]] = (),
) -> Deviation:
    """The deviation of a graph from the reference; `alternatives` are outputs that are right too."""
    model = onnx.load(file)
    fp16 = any(weight.data_type == FLOAT16 for weight in model.graph.initializer) or _casts_to_fp16(model.graph)
    try:
        outputs = run(emulate_fp16(model) if fp16 else model, inputs, fp16=fp16)
    except Exception as failure:
        return Deviation(str(file), fp16, np.inf, "", 0.0, f"{type(failure).__name__}: {failure}".splitlines()[0][:300])
    if alternatives:
        outputs = accept_alternatives(outputs, reference, alternatives)
    return compare(str(file), outputs, reference, fp16=fp16)


def compare(
    file: str,
    outputs: Mapping[str, list[Array]],
    reference: Mapping[str, list[Array]],
    *,
    fp16: bool,
    typical: float = MIN_RELATIVE_SIZE,
) -> Deviation:
    """The deviation of outputs by parts; errors are relative to at least `typical` times a part's typical magnitude."""
    worst, where, changed = 0.0, "", 0.0
    for number in range(len(reference["fresh"])):
        exact = {name: arrays[number] for name, arrays in reference.items()}
        output = {name: arrays[number] for name, arrays in outputs.items()}
        if exact["fresh"].dtype.kind in "iub":
            changed = max(changed, *(float(np.mean(output[name] != exact[name])) for name in exact))
            continue
        if any(output[name].shape != exact[name].shape for name in exact):
            return Deviation(file, fp16, np.inf, f"output {number}: shapes differ", changed)
        for part, error in _errors(output, exact, typical):
            if not error <= worst:
                worst, where = error, f"output {number}, {part}"
    return Deviation(file, fp16, worst, where, changed)


def _errors(
    outputs: Mapping[str, Array], reference: Mapping[str, Array], typical: float
) -> Iterator[tuple[str, float]]:
    """The largest error of every part for every input, relative to its magnitude (at least `typical` of the median)."""
    for axis, part in _parts(np.concatenate([reference["fresh"], reference["fresh again"]])):
        median = np.median(_sizes(reference["fresh"], axis, part))
        for name, exact in reference.items():
            output = (np.take(outputs[name], part, axis) if axis else outputs[name]).astype(np.float64)
            exact = np.take(exact, part, axis) if axis else exact
            is_equal = (exact == output) | (np.isnan(exact) & np.isnan(output))
            is_sentinel = ~np.isfinite(exact) | (np.abs(exact) > SENTINEL * max(median, 1e-30))
            is_equal |= is_sentinel & _equal_sentinels(exact, output)
            errors = np.where(is_equal, 0.0, np.abs(output - exact))
            errors = np.where(np.isnan(errors), np.inf, errors).reshape(len(exact), -1).max(1)
            sizes = np.maximum(
                np.where(is_sentinel, 0.0, np.abs(exact)).reshape(len(exact), -1).max(1), typical * median
            )
            case = int(np.argmax(errors / np.maximum(sizes, 1e-30)))
            error = float(errors[case] / max(sizes[case], 1e-30)) if errors[case] else 0.0
            yield f"{f'axis {axis}, channels {part[:3].tolist()}' if axis else 'all'} of {name} {case}", error


def _equal_sentinels(exact: Array, output: Array) -> Array:
    """Whether a sentinel value is preserved: same sign, and as large as FP16 can represent."""
    is_preserved: Array = (np.sign(exact) == np.sign(output)) & (
        np.abs(output) >= np.minimum(np.abs(exact), 6e4) * 0.99
    )
    return is_preserved


def _sizes(array: Array, axis: int, part: Array) -> Array:
    magnitudes = np.abs(np.take(array, part, axis) if axis else array).reshape(len(array), -1)
    largest: Array = np.where(np.isfinite(magnitudes), magnitudes, 0.0).max(1)
    return largest


def _channel_sizes(example: Array, axes: tuple[int, ...]) -> Array:
    """The magnitude of each channel; a channel that is near zero but varies like others counts as large as these."""
    finite = np.where(np.isfinite(example), example, 0.0)
    largest, spread = np.abs(finite).max(axes), finite.std(axes)
    ratio = np.median(largest) / max(float(np.median(spread)), 1e-30) if np.median(spread) else 0.0
    sizes: Array = np.maximum(largest, spread * ratio)
    return sizes


def _parts(example: Array) -> Iterator[tuple[int, Array]]:
    """The whole tensor, and along each axis the groups of channels of similar magnitude, if magnitudes differ much."""
    yield 0, np.arange(0)
    for axis in range(1, example.ndim):
        other_axes = tuple(index for index in range(example.ndim) if index != axis)
        sizes = _channel_sizes(example, other_axes)
        order = np.argsort(sizes)
        ordered = np.maximum(sizes[order], 1e-12)
        breaks = np.flatnonzero(ordered[1:] > MAX_RATIO * ordered[:-1]) + 1
        if len(breaks):
            yield from ((axis, part) for part in np.split(order, breaks) if sizes[part].max() > 1e-9)


def run(model: onnx.ModelProto, inputs: Mapping[str, list[Array]], *, fp16: bool) -> dict[str, list[Array]]:
    """A graph's outputs in ONNX Runtime; with `fp16`, without optimisations, which could remove a rounding."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    if fp16:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    return {name: session.run(None, dict(zip(names, arrays, strict=True))) for name, arrays in inputs.items()}


def _casts_to_fp16(graph: onnx.GraphProto) -> bool:
    return any(attribute.i == FLOAT16 for node in graph.node if node.op_type == "Cast" for attribute in node.attribute)


def emulate_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph in FP32, with every FP16 tensor rounded to FP16 after the node that produces it."""
    model = onnx.shape_inference.infer_shapes(model, strict_mode=False)
    types = {value.name: value.type.tensor_type.elem_type for value in (*model.graph.value_info, *model.graph.output)}
    types |= {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
    types |= {weight.name: weight.data_type for weight in model.graph.initializer}
    _widen(model.graph, types)
    return model


def _widen(graph: onnx.GraphProto, types: dict[str, int]) -> None:
    types |= {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.output)}
    types |= {weight.name: weight.data_type for weight in graph.initializer}
    nodes = []
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            types[node.output[0]] = node.attribute[0].t.data_type
        for attribute in node.attribute:
            _widen_attribute(node, attribute, types)
        nodes.append(node)
        for index, name in enumerate(node.output):
            if name and types.get(name) == FLOAT16:
                node.output[index] = f"{name} before rounding"
                nodes.append(helper.make_node("Cast", [f"{name} before rounding"], [f"{name} in FP16"], to=FLOAT16))
                nodes.append(helper.make_node("Cast", [f"{name} in FP16"], [name], to=TensorProto.FLOAT))
    del graph.node[:]
    graph.node.extend(nodes)
    for weight in graph.initializer:
        _widen_tensor(weight)
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type == FLOAT16:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    del graph.value_info[:]


def _widen_attribute(node: onnx.NodeProto, attribute: onnx.AttributeProto, types: dict[str, int]) -> None:
    if node.op_type == "Cast" and attribute.name == "to" and attribute.i == FLOAT16:
        attribute.i = TensorProto.FLOAT
    if attribute.type == onnx.AttributeProto.TENSOR:
        _widen_tensor(attribute.t)
    if attribute.type == onnx.AttributeProto.GRAPH:
        _widen(attribute.g, types)


def _widen_tensor(tensor: onnx.TensorProto) -> None:
    if tensor.data_type == FLOAT16:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))


def export_onnx(net: torch.nn.Module, inputs: Mapping[str, list[Array]], exporter: str, to: Path) -> str:
    """Exports the network with torch.onnx alone; returns why it failed, or an empty string."""
    example = tuple(tensor(array) for array in inputs["fresh"])
    names = [f"in_{number}" for number in range(len(example))]
    common: dict[str, Any] = {"input_names": names, "opset_version": 18, "verbose": False}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if exporter == "torchscript":
                axes = {name: {0: "batch"} for name in names}
                torch.onnx.export(net, example, to, dynamic_axes=axes, **common, dynamo=False)
            else:
                shapes = tuple({0: torch.export.Dim.DYNAMIC} for _ in example)
                torch.onnx.export(net, example, to, dynamic_shapes=shapes, **common, dynamo=True)
    except Exception as failure:
        return f"{type(failure).__name__}: {failure}".splitlines()[0][:200]
    return ""
