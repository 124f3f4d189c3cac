"""Runs an FP16 or BF16 graph on the CPU as hardware computes it: results rounded to the type, sums in FP32.

ONNX Runtime on a CPU computes an FP16 graph in FP32 throughout, which hides overflow, and has few operators in BF16.
This module rewrites the graph first: it uses FP32 operators on the narrow weights, and casts each of their results to
the type that the graph declares for it and back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from deploytool.backends import mask_values, onnxruntime, saturation
from deploytool.backends.narrow_floats import BY_ELEMENT_TYPE, NarrowFloat
from deploytool.backends.session import Array, Session, in_batches, until_end
from deploytool.errors import MissingBackend
from deploytool.host import fp16_rounding
from deploytool.rewrites.graph import storage, weights

FP32_SUFFIX = "/fp32"  # after the name of a weight: the FP32 copy of a weight that the graph has in both types
HALF_SUFFIX = "/half"  # after the name of a weight: the narrow weight that a cast widens, in a large graph
_UNROUNDED = "/exact"  # after the name of a tensor: the result of its node before it is rounded
_CHUNK = 8  # cases that run at once, so that all intermediate tensors fit into memory


def fingerprint() -> str:
    """The version of ONNX Runtime, which computes the FP32 operators."""
    return f"onnxruntime {ort.__version__}"


@contextmanager
def start(path: Path, device: str = "cpu") -> Iterator[Session]:
    """Loads a narrow graph on the CPU with every result rounded to its type; its inputs and outputs are FP32."""
    if device != "cpu":
        raise MissingBackend(f"FP16 and BF16 arithmetic is not emulated on {device}", "use --runner onnxruntime there")
    # fused operators would skip the rounding
    with until_end(_as_session(_load(emulate(storage.load(path)), optimise=False))) as session:
        yield session


@contextmanager
def start_without_rounding(path: Path) -> Iterator[Session]:
    """Loads a narrow graph with every operator in FP32: only its weights are rounded."""
    with until_end(_in_fp32(emulate(storage.load(path), results=False))) as session:
        yield session


@contextmanager
def start_with_rounded_weights(path: Path, narrow_path: Path) -> Iterator[Session]:
    """Loads an FP32 graph with the weights rounded that are narrow in the graph of `narrow_path`."""
    with until_end(_in_fp32(round_weights_like(storage.load(path), storage.load(narrow_path)))) as session:
        yield session


def round_weights_like(graph: onnx.ModelProto, narrow_graph: onnx.ModelProto) -> onnx.ModelProto:
    """The FP32 graph, changed in place, with those weights rounded to FP16 or BF16 that are so in `narrow_graph`.

    Its outputs are those that `narrow_graph` must have when it is computed in FP32, up to FP32 noise. A weight that
    `narrow_graph` has in both types is rounded only for the consumers that read the narrow one there.
    """
    large, rounded = weights.is_large(graph), _narrow_weights(narrow_graph)
    reads = ((node.name, name) for node in narrow_graph.graph.node for name in node.input)
    fp32_reads = {(node, name) for node, name in reads if name.endswith(FP32_SUFFIX)}
    tensors, initializers = _tensors(graph), {weight.name for weight in graph.graph.initializer}
    for node in graph.graph.node:
        node_names = {node.name, f"{node.output[0]}/{node.op_type}"}  # the second where the node has no name
        for index, name in enumerate(node.input):
            fp32_name = name + FP32_SUFFIX
            if name in rounded and name in tensors and any((reader, fp32_name) in fp32_reads for reader in node_names):
                if fp32_name not in tensors:
                    graph.graph.initializer.append(weights.renamed(tensors[name], fp32_name))
                    tensors[fp32_name] = graph.graph.initializer[-1]
                node.input[index] = fp32_name
    widened = []
    for name in sorted(rounded.keys() & tensors.keys()):
        if tensors[name].data_type != TensorProto.FLOAT:  # the source may have narrow weights itself
            continue
        if large and name in initializers and weights.is_big(tensors[name]):
            tensors[name].CopyFrom(weights.renamed(round_weight(tensors[name], rounded[name]), name + HALF_SUFFIX))
            widened.append(name)
        else:
            _round_values(tensors[name], rounded[name])
    _widen(graph.graph, widened)
    return graph


def _widen(graph: onnx.GraphProto, names: Sequence[str]) -> None:
    """Adds casts to FP32 of big narrow weights, which takes less memory than the weights in FP32."""
    nodes = [helper.make_node("Cast", [name + HALF_SUFFIX], [name], name, to=TensorProto.FLOAT) for name in names]
    if nodes:
        nodes += graph.node
        del graph.node[:]
        graph.node.extend(nodes)


def _narrow_weights(graph: onnx.ModelProto) -> dict[str, NarrowFloat]:
    """The types of the narrow initializers and constants, by name."""
    types = {weight.name: weight.data_type for weight in graph.graph.initializer}
    held = ((node.output[0], each.t) for node in graph.graph.node for each in node.attribute if each.HasField("t"))
    types |= {name: tensor.data_type for name, tensor in held}
    return {name: BY_ELEMENT_TYPE[kind] for name, kind in types.items() if kind in BY_ELEMENT_TYPE}


def _tensors(graph: onnx.ModelProto) -> dict[str, TensorProto]:
    """The initializers and constants by name."""
    tensors = {weight.name: weight for weight in graph.graph.initializer}
    constants = (node for node in graph.graph.node if node.op_type == "Constant")
    return tensors | {
        node.output[0]: attribute.t for node in constants for attribute in node.attribute if attribute.HasField("t")
    }


def _round_values(weight: TensorProto, narrow: NarrowFloat) -> None:
    """Rounds the values of an FP32 weight, in place; its type stays FP32, and masks stay as they are."""
    exact = numpy_helper.to_array(weight)
    rounded = narrow.round_weights(exact).astype(np.float32)
    values = np.where(np.abs(exact) > narrow.largest, exact, rounded).astype(np.float32)
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))


def round_weight(weight: TensorProto, narrow: NarrowFloat) -> TensorProto:
    """A weight in a narrow type under its name, rounded by `NarrowFloat.round_weights`."""
    return numpy_helper.from_array(narrow.round_weights(weights.values(weight)), weight.name)


def _in_fp32(graph: onnx.ModelProto) -> Session:
    """A session of a graph; a large one is not optimised, which would make all of its narrow weights FP32 at once."""
    return _as_session(_load(graph, optimise=not weights.is_large(graph)))


def _as_session(session: ort.InferenceSession) -> Session:
    names = [output.name for output in session.get_outputs()]

    def call(**inputs: Array) -> dict[str, Array]:
        return dict(zip(names, session.run(names, _cast_inputs(session, inputs)), strict=True))

    return in_batches(call, session.get_inputs()[0].shape[:1])


def _load(graph: onnx.ModelProto, *, optimise: bool = True) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1  # never timed, and more threads cost more than they save
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    onnxruntime.set_arithmetic(options)
    parts = weights.session_parts(graph)
    onnxruntime.pass_weights(options, parts.arrays, parts.folder)
    return ort.InferenceSession(parts.message, options, providers=["CPUExecutionProvider"])


def run_with_range(half: onnx.ModelProto, inputs: Mapping[str, Array]) -> tuple[dict[str, Array], float]:
    """The outputs of a narrow graph, and the largest finite value that it rounds anywhere.

    Masks do not count, and neither do values beyond 65504 that saturate what reads them.
    """
    narrow = _narrow_types(half.graph.input)
    arrays = {name: narrow[name].nearest(array) if name in narrow else array for name, array in inputs.items()}
    graph = emulate(half)
    outputs = [output.name for output in graph.graph.output]
    unrounded = [node.output[0] for node in graph.graph.node if node.output[0].endswith(_UNROUNDED)]
    has_masks = bool(mask_values.find(graph))
    names = [*outputs, *([] if has_masks else _add_maxima(graph, unrounded))]
    chunks = _run(graph, names, arrays)
    cases = len(next(iter(inputs.values())))
    answers = {name: np.concatenate([chunk[index] for chunk in chunks])[:cases] for index, name in enumerate(outputs)}
    largest = float(np.max([chunk[len(outputs) :] for chunk in chunks], initial=0.0))
    if has_masks or not largest <= fp16_rounding.LARGEST:
        largest = max(_ranges(lambda: emulate(half), unrounded, arrays).values(), default=0.0)
    return answers, largest


def node_ranges(path: Path, inputs: Mapping[str, Array]) -> dict[str, float]:
    """The largest finite value that each node of a narrow graph produces before rounding, by the name of the node.

    Infinity is not counted: a value that overflows is finite once, at the node that produces it. Neither are masks, and
    values beyond 65504 that saturate what reads them.
    """

    def make() -> onnx.ModelProto:
        return emulate(storage.load(path))

    producers = {node.output[0]: node.name for node in make().graph.node if node.output[0].endswith(_UNROUNDED)}
    ranges = _ranges(make, list(producers), inputs)
    return {node: ranges[tensor] for tensor, node in producers.items()}


def tensor_ranges(single: onnx.ModelProto, inputs: Mapping[str, Array]) -> dict[str, float]:
    """The largest finite absolute value of each FP32 tensor of an FP32 graph, inputs included and masks excluded."""

    def make() -> onnx.ModelProto:
        graph = onnx.ModelProto()
        graph.CopyFrom(single)
        return graph

    typed = infer_types(single).graph
    values = (*typed.input, *typed.value_info, *typed.output)
    tensors = {value.name: None for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    return _ranges(make, list(tensors), inputs)


def _ranges(
    make: Callable[[], onnx.ModelProto], tensors: Sequence[str], inputs: Mapping[str, Array]
) -> dict[str, float]:
    """The largest finite absolute value of each of these tensors of the graph from `make`, masks excluded.

    A tensor that can still hold a shrunk mask is measured once more with masks of zero. A tensor beyond 65504 that
    saturates what reads it counts as zero. One copy of the graph at a time is in memory.
    """

    def measure(names: Sequence[str], to: float, *, finite: bool) -> dict[str, float]:
        graph = make()
        mask_values.shrink(graph, to)
        return _maxima(graph, names, inputs, finite=finite)

    graph = make()
    absorbed, has_masks = saturation.absorbed(graph), bool(mask_values.find(graph))
    del graph
    ranges = measure(tensors, mask_values.SHRUNK_MASK, finite=False)
    infinite = [name for name, value in ranges.items() if not np.isfinite(value)]
    ranges |= measure(infinite, mask_values.SHRUNK_MASK, finite=True) if infinite else {}
    lowest_mask = mask_values.SHRUNK_MASK / 2
    doubtful = [name for name, value in ranges.items() if has_masks and lowest_mask <= value <= fp16_rounding.LARGEST]
    bare = measure(doubtful, 0.0, finite=True) if doubtful else {}
    ranges |= {name: min(ranges[name], value) for name, value in bare.items()}
    return {
        name: 0.0 if value > fp16_rounding.LARGEST and name in absorbed else value for name, value in ranges.items()
    }


def _maxima(
    graph: onnx.ModelProto, tensors: Sequence[str], inputs: Mapping[str, Array], *, finite: bool = False
) -> dict[str, float]:
    """The largest absolute value of each of these tensors over all cases; changes the graph."""
    if not tensors:
        return {}  # ONNX Runtime would return every output
    maxima: Array = np.array(_run(graph, _add_maxima(graph, tensors, finite=finite), inputs))
    return dict(zip(tensors, maxima.max(axis=0).tolist(), strict=True))


def _run(graph: onnx.ModelProto, names: Sequence[str], inputs: Mapping[str, Array]) -> list[list[Array]]:
    """These outputs for a few cases at a time; with a fixed batch size, the first cases pad the last chunk."""
    session, cases = _load(graph, optimise=False), len(next(iter(inputs.values())))
    batch = next(iter(session.get_inputs()[0].shape), None)
    size = batch if isinstance(batch, int) else _CHUNK
    firsts = range(0, cases, size)
    ends = [first + size if isinstance(batch, int) else min(first + size, cases) for first in firsts]
    chunks = [np.arange(first, end) % cases for first, end in zip(firsts, ends, strict=True)]
    arrays = _cast_inputs(session, inputs)
    return [session.run(names, {name: array[rows] for name, array in arrays.items()}) for rows in chunks]


def _add_maxima(graph: onnx.ModelProto, tensors: Sequence[str], *, finite: bool = False) -> list[str]:
    """Adds the largest absolute value of each of these tensors to the graph's outputs; returns the output names.

    With `finite`, infinity and NaN count as zero, which takes two more operators for each tensor.
    """
    names, inner = [], graph.graph
    if finite:
        limits = (("/infinity", np.inf), ("/zero", 0.0))
        inner.initializer.extend(numpy_helper.from_array(np.array(value, np.float32), name) for name, value in limits)
    for tensor in tensors:
        sizes, largest = f"{tensor}/sizes", f"{tensor}/largest"
        inner.node.append(helper.make_node("Abs", [tensor], [sizes]))
        if finite:
            within, sizes = f"{tensor}/within", f"{tensor}/finite"
            inner.node.append(helper.make_node("Less", [f"{tensor}/sizes", "/infinity"], [within]))
            inner.node.append(helper.make_node("Where", [within, f"{tensor}/sizes", "/zero"], [sizes]))
        inner.node.append(helper.make_node("ReduceMax", [sizes], [largest], keepdims=0))
        inner.output.append(helper.make_tensor_value_info(largest, TensorProto.FLOAT, []))
        names.append(largest)
    return names


def _cast_inputs(session: ort.InferenceSession, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """The inputs in the types that the session declares: an emulated graph takes FP32 where the original takes FP16."""
    single = {declared.name for declared in session.get_inputs() if declared.type == "tensor(float)"}
    return {name: array.astype(np.float32, copy=False) if name in single else array for name, array in inputs.items()}


def emulate(half: onnx.ModelProto, *, results: bool = True) -> onnx.ModelProto:
    """The FP32 graph that computes what hardware computes for `half`; with `results` False, without rounding."""
    graph, large = infer_types(half).graph, weights.is_large(half, growth=2)  # FP32 takes twice as much
    narrow = _narrow_types((*graph.input, *graph.value_info, *graph.output)) if results else {}
    cast = {weight.name for weight in half.graph.initializer if large and _stays_half(weight)}
    initializers = [
        weights.renamed(weight, weight.name + HALF_SUFFIX) if weight.name in cast else _fp32_tensor(weight)
        for weight in half.graph.initializer
    ]
    nodes = [emulated for node in graph.node for emulated in _rounded_node(node, narrow)]
    inputs, outputs = ([_fp32_value(value) for value in group] for group in (graph.input, graph.output))
    fp32_graph = helper.make_graph(nodes, graph.name, inputs, outputs, initializers)
    _widen(fp32_graph, sorted(cast))
    return helper.make_model(fp32_graph, opset_imports=half.opset_import, ir_version=half.ir_version)


def _stays_half(weight: TensorProto) -> bool:
    """Whether a weight of a large graph stays narrow, with a cast after it; one that can be a mask is widened."""
    if weight.data_type not in BY_ELEMENT_TYPE or not weights.is_big(weight):
        return False
    return not bool((np.abs(weights.values(weight)) >= mask_values.MIN_MASK).any())


def infer_types(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the type of every tensor; discards the shapes that it declares if they are inconsistent.

    A large model comes without the values of its weights.
    """
    try:
        return weights.infer_shapes(model, strict=True)
    except onnx.shape_inference.InferenceError:
        del model.graph.value_info[:]
        return weights.infer_shapes(model, strict=True)


def _narrow_types(values: Iterable[onnx.ValueInfoProto]) -> dict[str, NarrowFloat]:
    """The types of the narrow ones among these tensors, by name."""
    types = ((value.name, value.type.tensor_type.elem_type) for value in values)
    return {name: BY_ELEMENT_TYPE[kind] for name, kind in types if kind in BY_ELEMENT_TYPE}


def _fp32_tensor(weight: TensorProto) -> TensorProto:
    if weight.data_type not in BY_ELEMENT_TYPE:
        return weight
    return numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float32), weight.name)


def _fp32_value(value: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    if value.type.tensor_type.elem_type in BY_ELEMENT_TYPE:
        value.type.tensor_type.elem_type = TensorProto.FLOAT
    return value


def _rounded_node(node: onnx.NodeProto, narrow: Mapping[str, NarrowFloat]) -> list[onnx.NodeProto]:
    """The node in FP32, followed by casts of its narrow results to their type and back."""
    nodes = [node]
    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i in BY_ELEMENT_TYPE:
            attribute.i = TensorProto.FLOAT
        if attribute.HasField("t"):
            attribute.t.CopyFrom(_fp32_tensor(attribute.t))
    for index, name in enumerate(node.output):
        if name in narrow:
            unrounded, half = name + _UNROUNDED, f"{name}/half"
            node.output[index] = unrounded
            nodes.append(helper.make_node("Cast", [unrounded], [half], half, to=narrow[name].element_type))
            nodes.append(helper.make_node("Cast", [half], [name], f"{name}/single", to=TensorProto.FLOAT))
    return nodes
