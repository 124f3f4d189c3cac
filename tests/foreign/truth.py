"""The truth about exported files, told without a line of the product: FP64 in PyTorch against ONNX Runtime.

An FP16 graph is run with every result rounded to FP16, by a graph of its own that computes in FP32 between the
roundings, with all optimisations off: what a GPU without wider intermediate results would answer.
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
HALF = TensorProto.FLOAT16
NEARBY = 24  # neighbours of a network that decides
GAP = 10.0  # channels whose sizes lie further apart are parts of their own
TYPICAL = 0.1  # of the usual size of a part: smaller answers are not measured by their own size
SENTINEL = 1e4  # times the median: no amount but a mark


@dataclass(frozen=True)
class Found:
    """How far a file's answers are off: the largest error of any part, in shares of the part's size, and where.

    `moved` is the largest share of elements of an integer output that differ; `fault` says why nothing was measured.
    """

    file: str
    half: bool
    error: float
    where: str
    moved: float
    fault: str = ""


def network(path: Path, factory: str, size: int, seed: int) -> torch.nn.Module:
    """The network of a factory, ready to answer."""
    spec = importlib.util.spec_from_file_location(f"foreign_{path.stem}", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    net: torch.nn.Module = getattr(module, factory)(size=size, seed=seed)
    return net.eval()


def feeds(inputs: Sequence[Input], seed: int) -> dict[str, list[Array]]:
    """Inputs that no run has seen, and some at the edge: noise, nothing, all the same, very quiet.

    How large an answer usually is, is asked of pictures where the inputs are such. Half of those that are no pictures
    are three times as loud: nobody says how large the numbers of a vector are.
    """
    rng = np.random.default_rng(90_000 + seed)
    fresh = [_pictures(each, rng) if _coloured(each) else _drawn(each, rng) for each in inputs]
    return {
        "fresh": fresh,
        "fresh again": [_drawn(each, rng, 1.0 if len(each.shape) == 3 else 3.0) for each in inputs],
        "zeros": [np.zeros_like(array) for array in fresh],
        "constant": [np.full_like(array, 1 if array.dtype.kind in "iu" else 0.5) for array in fresh],
        "quiet": [array if array.dtype.kind in "iu" else _quiet(array) for array in fresh],
    }


def _coloured(each: Input) -> bool:
    return each.dtype == "float32" and len(each.shape) == 3 and each.shape[0] == 3


def _pictures(each: Input, rng: np.random.Generator) -> Array:
    """Boxes of every colour on one another, with a little grain: whole grey levels, scaled as ImageNet's are."""
    _, height, width = each.shape
    pixels = np.empty((CASES, 3, height, width))
    for picture in pixels:
        picture[:] = rng.uniform(0, 255, (3, 1, 1))
        for _ in range(24):
            top, left = rng.integers(0, height), rng.integers(0, width)
            bottom, right = top + rng.integers(2, height), left + rng.integers(2, width)
            picture[:, top:bottom, left:right] = rng.uniform(0, 255, (3, 1, 1))
    levels = np.clip(pixels + rng.normal(0, 4, pixels.shape), 0, 255).round() / 255
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    made: Array = ((levels - mean[:, None, None]) / std[:, None, None]).astype(np.float32)
    return made


def _quiet(array: Array) -> Array:
    """A whisper; of pictures, of which a camera gives whole grey levels, a flat one."""
    quiet: Array = array * np.float32(0.05 if array.ndim == 4 and array.shape[1] == 3 else 1e-3)
    return quiet


def _drawn(each: Input, rng: np.random.Generator, loud: float = 1.0) -> Array:
    shape = (CASES, *each.shape)
    if each.dtype in ("float32", "float16"):
        return (loud * rng.standard_normal(shape)).astype(each.dtype)
    return rng.integers(0, each.below, shape).astype(each.dtype)


def flat(answer: object) -> Iterator[Array]:
    """Every tensor of an answer, in order."""
    if isinstance(answer, torch.Tensor):
        yield answer.detach().numpy()
    elif isinstance(answer, Mapping):
        for value in answer.values():
            yield from flat(value)
    elif isinstance(answer, (tuple, list)):
        for value in answer:
            yield from flat(value)
    elif is_dataclass(answer):
        yield from flat(vars(answer))


def expected(net: torch.nn.Module, inputs: Mapping[str, list[Array]]) -> dict[str, list[Array]]:
    """What the network answers in FP64, which it is left in."""
    exact = net.double()
    with torch.no_grad():
        return {name: list(flat(exact(*(_double(array) for array in arrays)))) for name, arrays in inputs.items()}


def nearby(net: torch.nn.Module, inputs: Mapping[str, list[Array]], apart: float) -> list[dict[str, list[Array]]]:
    """What a network in FP64 answers where its weights and inputs are others by a share of `apart`, as rounding makes.

    A network that decides (the four best places, the nearest code) may decide otherwise at a tie: each is right.
    """
    sound = copy.deepcopy(net.state_dict())
    found = []
    for seed in range(NEARBY):
        rng, chance = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
        for weight in net.parameters():
            weight.data *= 1 + apart * torch.randn(weight.shape, generator=chance, dtype=weight.dtype)
        moved = {
            name: [
                array * (1 + apart * rng.standard_normal(array.shape)) if array.dtype.kind == "f" else array
                for array in arrays
            ]
            for name, arrays in inputs.items()
        }
        found.append(expected(net, moved))
        net.load_state_dict(sound)
    return found


def closest(
    answers: Mapping[str, list[Array]], truth: Mapping[str, list[Array]], others: Sequence[Mapping[str, list[Array]]]
) -> dict[str, list[Array]]:
    """The answers with what another sound decision gives put right: there the truth stands in their place.

    An element is put right if one of the other answers is closer to it than the truth is, by the size of a decision.
    """
    found: dict[str, list[Array]] = {}
    for name, wanted in truth.items():
        found[name] = []
        for number, exact in enumerate(wanted):
            given = answers[name][number]
            apart = np.abs(given.astype(np.float64) - exact)
            nearest = np.min([np.abs(given.astype(np.float64) - each[name][number]) for each in others], axis=0)
            found[name].append(np.where((nearest < 0.1 * apart) & (given.shape == exact.shape), exact, given))
    return found


def jittered(net: torch.nn.Module, inputs: Mapping[str, list[Array]], truth: Mapping[str, list[Array]]) -> float:
    """How far a network in FP64 is off where each layer is a rounding of FP32 beside: as other sums make it."""
    worst = 0.0
    for seed in range(3):
        chance = torch.Generator().manual_seed(seed)
        hooks = [each.register_forward_hook(_rounded(chance)) for each in net.modules() if not list(each.children())]
        worst = max(worst, compared("jittered", expected(net, inputs), truth, half=False).error)
        for hook in hooks:
            hook.remove()
    return worst


def _rounded(chance: torch.Generator) -> Callable[[torch.nn.Module, object, object], object]:
    def hook(_: torch.nn.Module, __: object, answer: object) -> object:
        if not isinstance(answer, torch.Tensor) or not answer.is_floating_point():
            return None
        return answer * (1 + 2.0**-23 * torch.randn(answer.shape, generator=chance, dtype=answer.dtype))

    return hook


def eager(net: torch.nn.Module, inputs: Mapping[str, list[Array]], truth: Mapping[str, list[Array]]) -> Found:
    """How far the network's own FP32 is off, which no file can be blamed for."""
    with torch.no_grad():
        answers = {name: list(flat(net(*(tensor(array) for array in arrays)))) for name, arrays in inputs.items()}
    return compared("eager", answers, truth, half=False)


def tensor(array: Array) -> torch.Tensor:
    """A copy for a network, which may write into it."""
    return torch.from_numpy(array.copy())


def _double(array: Array) -> torch.Tensor:
    return torch.from_numpy(array.astype(np.float64) if array.dtype.kind == "f" else array.copy())


def judge(
    file: Path,
    inputs: Mapping[str, list[Array]],
    truth: Mapping[str, list[Array]],
    others: Sequence[Mapping[str, list[Array]]] = (),
) -> Found:
    """How far a graph is off; `others` are answers that are as right."""
    model = onnx.load(file)
    half = any(each.data_type == HALF for each in model.graph.initializer) or _casts_to_half(model.graph)
    try:
        answers = run(rounding(model) if half else model, inputs, half=half)
    except Exception as failure:
        return Found(str(file), half, np.inf, "", 0.0, f"{type(failure).__name__}: {failure}".splitlines()[0][:300])
    if others:
        answers = closest(answers, truth, others)
    return compared(str(file), answers, truth, half=half)


def compared(
    file: str,
    answers: Mapping[str, list[Array]],
    truth: Mapping[str, list[Array]],
    *,
    half: bool,
    typical: float = TYPICAL,
) -> Found:
    """How far answers are off, by parts; none counts as smaller than `typical` of its usual size."""
    worst, where, moved = 0.0, "", 0.0
    for number in range(len(truth["fresh"])):
        want = {name: each[number] for name, each in truth.items()}
        have = {name: each[number] for name, each in answers.items()}
        if want["fresh"].dtype.kind in "iub":
            moved = max(moved, *(float(np.mean(have[name] != want[name])) for name in want))
            continue
        if any(have[name].shape != want[name].shape for name in want):
            return Found(file, half, np.inf, f"output {number}: shapes differ", moved)
        for what, error in _errors(have, want, typical):
            if not error <= worst:
                worst, where = error, f"output {number}, {what}"
    return Found(file, half, worst, where, moved)


def _errors(have: Mapping[str, Array], want: Mapping[str, Array], typical: float) -> Iterator[tuple[str, float]]:
    """The error of every part in every case, in shares of its size there, or of a share of its usual size."""
    for axis, part in _parts(np.concatenate([want["fresh"], want["fresh again"]])):
        usual = np.median(_sizes(want["fresh"], axis, part))
        for name, exact in want.items():
            given = np.take(have[name], part, axis).astype(np.float64) if axis else have[name].astype(np.float64)
            exact = np.take(exact, part, axis) if axis else exact
            same = (exact == given) | (np.isnan(exact) & np.isnan(given))
            mark = ~np.isfinite(exact) | (np.abs(exact) > SENTINEL * max(usual, 1e-30))
            wrong = np.where(same | (mark & _alike(exact, given)), 0.0, np.abs(given - exact))
            wrong = np.where(np.isnan(wrong), np.inf, wrong).reshape(len(exact), -1).max(1)
            sizes = np.maximum(np.where(mark, 0.0, np.abs(exact)).reshape(len(exact), -1).max(1), typical * usual)
            case = int(np.argmax(wrong / np.maximum(sizes, 1e-30)))
            error = float(wrong[case] / max(sizes[case], 1e-30)) if wrong[case] else 0.0
            yield f"{f'axis {axis}, channels {part[:3].tolist()}' if axis else 'all'} of {name} {case}", error


def _alike(exact: Array, given: Array) -> Array:
    """Whether a mark is still one: of the same sign, and as large as FP16 can say."""
    same: Array = (np.sign(exact) == np.sign(given)) & (np.abs(given) >= np.minimum(np.abs(exact), 6e4) * 0.99)
    return same


def _sizes(array: Array, axis: int, part: Array) -> Array:
    chosen = np.take(array, part, axis) if axis else array
    found = np.abs(chosen.reshape(len(chosen), -1))
    largest: Array = np.where(np.isfinite(found), found, 0.0).max(1)
    return largest


def _channel_sizes(example: Array, over: tuple[int, ...]) -> Array:
    """The size of each channel; one that is near zero by chance, and varies as others do, is as large as these."""
    finite = np.where(np.isfinite(example), example, 0.0)
    largest, spread = np.abs(finite).max(over), finite.std(over)
    usual = np.median(largest) / max(float(np.median(spread)), 1e-30) if np.median(spread) else 0.0
    sizes: Array = np.maximum(largest, spread * usual)
    return sizes


def _parts(example: Array) -> Iterator[tuple[int, Array]]:
    """The whole, and along each axis the channels of one size where there are gaps between the sizes."""
    yield 0, np.arange(0)
    for axis in range(1, example.ndim):
        over = tuple(other for other in range(example.ndim) if other != axis)
        sizes = _channel_sizes(example, over)
        order = np.argsort(sizes)
        ordered = np.maximum(sizes[order], 1e-12)
        breaks = np.flatnonzero(ordered[1:] > GAP * ordered[:-1]) + 1
        if len(breaks):
            yield from ((axis, part) for part in np.split(order, breaks) if sizes[part].max() > 1e-9)


def run(model: onnx.ModelProto, inputs: Mapping[str, list[Array]], *, half: bool) -> dict[str, list[Array]]:
    """What a graph answers in ONNX Runtime; half: without any optimisation, which could take a rounding out."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    if half:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    return {name: session.run(None, dict(zip(names, arrays, strict=True))) for name, arrays in inputs.items()}


def _casts_to_half(graph: onnx.GraphProto) -> bool:
    return any(attribute.i == HALF for node in graph.node if node.op_type == "Cast" for attribute in node.attribute)


def rounding(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph in FP32, with every tensor that was FP16 rounded to FP16 where it is made."""
    model = onnx.shape_inference.infer_shapes(model, strict_mode=False)
    types = {each.name: each.type.tensor_type.elem_type for each in (*model.graph.value_info, *model.graph.output)}
    types |= {each.name: each.type.tensor_type.elem_type for each in model.graph.input}
    types |= {each.name: each.data_type for each in model.graph.initializer}
    _widen(model.graph, types)
    return model


def _widen(graph: onnx.GraphProto, types: dict[str, int]) -> None:
    types |= {each.name: each.type.tensor_type.elem_type for each in (*graph.value_info, *graph.output)}
    types |= {each.name: each.data_type for each in graph.initializer}
    nodes = []
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            types[node.output[0]] = node.attribute[0].t.data_type
        for attribute in node.attribute:
            _widen_attribute(node, attribute, types)
        nodes.append(node)
        for place, name in enumerate(node.output):
            if name and types.get(name) == HALF:
                node.output[place] = f"{name} before rounding"
                nodes.append(helper.make_node("Cast", [f"{name} before rounding"], [f"{name} in FP16"], to=HALF))
                nodes.append(helper.make_node("Cast", [f"{name} in FP16"], [name], to=TensorProto.FLOAT))
    del graph.node[:]
    graph.node.extend(nodes)
    for each in graph.initializer:
        _widen_tensor(each)
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type == HALF:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    del graph.value_info[:]


def _widen_attribute(node: onnx.NodeProto, attribute: onnx.AttributeProto, types: dict[str, int]) -> None:
    if node.op_type == "Cast" and attribute.name == "to" and attribute.i == HALF:
        attribute.i = TensorProto.FLOAT
    if attribute.type == onnx.AttributeProto.TENSOR:
        _widen_tensor(attribute.t)
    if attribute.type == onnx.AttributeProto.GRAPH:
        _widen(attribute.g, types)


def _widen_tensor(tensor: onnx.TensorProto) -> None:
    if tensor.data_type == HALF:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))


def exported(net: torch.nn.Module, inputs: Mapping[str, list[Array]], exporter: str, to: Path) -> str:
    """Exports the network as anybody would, and says why it cannot be; empty if it can."""
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
