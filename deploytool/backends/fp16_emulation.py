"""An FP16 graph as FP16 hardware computes it: every result is rounded to FP16, and sums inside an operator are FP32.

ONNX Runtime on a CPU computes an FP16 graph in FP32 from end to end and so hides what overflows. Here the graph is
rewritten first: FP32 operators on the FP16 weights, and behind each of them a cast to FP16 and back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from deploytool.backends import mask_values
from deploytool.backends.session import Array, Session, in_batches
from deploytool.errors import MissingBackend

SMALLEST, LARGEST = 2.0**-24, 65504.0  # FP16's smallest subnormal and largest finite number
WIDE = "/fp32"  # after the name of a weight: what it is in FP32 beside the FP16 one
_EXACT = "/exact"  # the result of a node before it is rounded
_AT_ONCE = 8  # cases, so that all intermediate values of a batch fit into memory


def fingerprint() -> str:
    """The version of ONNX Runtime, which computes the FP32 operators."""
    return f"onnxruntime {ort.__version__}"


@contextmanager
def start(path: Path, device: str = "cpu") -> Iterator[Session]:
    """The graph of a file, every result rounded, on the CPU; inputs and outputs are FP32."""
    if device != "cpu":
        raise MissingBackend(f"FP16 arithmetic is not emulated on {device}", "run the graph there instead")
    yield _called(_session(emulate(onnx.load(path)), optimise=False))  # fusions would skip the rounding


@contextmanager
def start_fp32_compute(path: Path) -> Iterator[Session]:
    """The FP16 graph of a file with every operator in FP32: its weights are FP16's, and nothing else is."""
    yield _called(_session(emulate(onnx.load(path), results=False)))


@contextmanager
def expected_weights(path: Path, half: Path) -> Iterator[Session]:
    """The FP32 graph of a file with the weights that the FP16 graph `half` should have."""
    yield _called(_session(with_fp16_weights_of(onnx.load(path), onnx.load(half))))


def with_fp16_weights_of(graph: onnx.ModelProto, half: onnx.ModelProto) -> onnx.ModelProto:
    """The FP32 graph with those weights rounded to FP16 that are FP16 in the graph `half`.

    What it answers is what `half` must answer too when it is widened, FP32 noise aside. A weight that `half` has in
    both types is rounded for those of its readers alone that read it in FP16 there.
    """
    halves = {weight.name for weight in half.graph.initializer if weight.data_type == TensorProto.FLOAT16}
    halves |= {node.output[0] for node in half.graph.node if any(_is_half_constant(each) for each in node.attribute)}
    exact = {(node.name, name) for node in half.graph.node for name in node.input if name.endswith(WIDE)}
    held = {weight.name: weight for weight in graph.graph.initializer}
    held |= {
        node.output[0]: each.t
        for node in graph.graph.node
        for each in node.attribute
        if node.op_type == "Constant" and each.HasField("t")
    }
    for node in graph.graph.node:
        called = {node.name, f"{node.output[0]}/{node.op_type}"}  # the second where it has no name of its own
        for place, name in enumerate(node.input):
            if name in halves and name in held and any((each, name + WIDE) in exact for each in called):
                if name + WIDE not in held:
                    held[name + WIDE] = numpy_helper.from_array(numpy_helper.to_array(held[name]), name + WIDE)
                    graph.graph.initializer.append(held[name + WIDE])
                node.input[place] = name + WIDE
    for name in halves & set(held):
        _narrow(held[name])
    return graph


def _is_half_constant(attribute: onnx.AttributeProto) -> bool:
    return attribute.HasField("t") and attribute.t.data_type == TensorProto.FLOAT16


def _narrow(weight: TensorProto) -> None:
    """Rounds a weight to FP16 and widens it again."""
    values = numpy_helper.to_array(round_to_fp16(weight)).astype(np.float32)
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))


def round_to_fp16(weight: TensorProto) -> TensorProto:
    """A weight in FP16: what is finite stays so, at FP16's ends if need be, and what is not zero does not become so."""
    values = numpy_helper.to_array(weight)
    kept = np.where(np.isfinite(values), values.clip(-LARGEST, LARGEST), values)
    with np.errstate(under="ignore"):
        half = kept.astype(np.float16)
    half = np.where((half == 0) & (values != 0), np.copysign(SMALLEST, values).astype(np.float16), half)
    return numpy_helper.from_array(half.reshape(values.shape), weight.name)


def _called(session: ort.InferenceSession) -> Session:
    names = [output.name for output in session.get_outputs()]

    def call(**inputs: Array) -> dict[str, Array]:
        return dict(zip(names, session.run(names, _taken(session, inputs)), strict=True))

    return in_batches(call, session.get_inputs()[0].shape[:1])


def _session(graph: onnx.ModelProto, *, optimise: bool = True) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1  # nobody times this, and more of them cost more than they bring
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    return ort.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run_with_range(half: onnx.ModelProto, inputs: Mapping[str, Array]) -> tuple[dict[str, Array], float]:
    """The answers of a graph in memory, and the largest finite value that it rounds to FP16 anywhere, masks aside."""
    halves = {value.name for value in half.graph.input if _is_half(value)}
    given = {name: array.astype(np.float16) if name in halves else array for name, array in inputs.items()}
    graph, masked = emulate(half), emulate(half)
    ends = [output.name for output in graph.graph.output]
    made = [node.output[0] for node in graph.graph.node if node.output[0].endswith(_EXACT)]
    apart = mask_values.shrink(masked)
    names = [*ends, *([] if apart else _measure(graph, made))]
    parts = _run(graph, names, given)
    cases = len(next(iter(inputs.values())))
    answers = {name: np.concatenate([part[place] for part in parts])[:cases] for place, name in enumerate(ends)}
    largest = float(np.max([part[len(ends) :] for part in parts], initial=0.0))
    if apart or not np.isfinite(largest):
        largest = max(_sizes(masked, made, given).values(), default=0.0)
    return answers, largest


def node_ranges(path: Path, inputs: Mapping[str, Array]) -> dict[str, float]:
    """The largest finite value that each node of an FP16 graph makes before it is rounded, by the node's name.

    Infinity is no overflow: what overflows is finite once, where it is made. Nor is what a mask makes.
    """
    graph = emulate(onnx.load(path))
    makers = {node.output[0]: node.name for node in graph.graph.node if node.output[0].endswith(_EXACT)}
    found = _sizes(graph, list(makers), inputs)
    return {maker: found[exact] for exact, maker in makers.items()}


def tensor_ranges(single: onnx.ModelProto, inputs: Mapping[str, Array]) -> dict[str, float]:
    """The largest finite absolute value of each FP32 tensor of an FP32 graph and of its inputs, masks aside."""
    graph = with_types(single)
    values = (*graph.graph.input, *graph.graph.value_info, *graph.graph.output)
    tensors = {value.name: None for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    return _sizes(graph, list(tensors), inputs)


def _sizes(graph: onnx.ModelProto, tensors: Sequence[str], inputs: Mapping[str, Array]) -> dict[str, float]:
    """The largest finite absolute value of each of these tensors, masks aside; the graph is changed."""
    bare, again = onnx.ModelProto(), onnx.ModelProto()
    bare.CopyFrom(graph)
    masked = mask_values.shrink(graph)
    again.CopyFrom(graph)
    found = _largest(graph, tensors, inputs)
    odd = [name for name, value in found.items() if not np.isfinite(value)]
    found |= _largest(again, odd, inputs, finite=True) if odd else {}
    mask_values.shrink(bare, to=0.0)
    veiled = [name for name, value in found.items() if masked and mask_values.SMALL / 2 <= value <= LARGEST]
    apart = _largest(bare, veiled, inputs, finite=True) if veiled else {}
    return found | {name: min(found[name], value) for name, value in apart.items()}


def _largest(
    graph: onnx.ModelProto, tensors: Sequence[str], inputs: Mapping[str, Array], *, finite: bool = False
) -> dict[str, float]:
    parts: Array = np.array(_run(graph, _measure(graph, tensors, finite=finite), inputs))
    return dict(zip(tensors, parts.max(axis=0).tolist(), strict=True))


def _run(graph: onnx.ModelProto, names: Sequence[str], inputs: Mapping[str, Array]) -> list[list[Array]]:
    """These outputs, for a few cases at a time; where the batch is fixed, the last is filled up from the first."""
    session, cases = _session(graph, optimise=False), len(next(iter(inputs.values())))
    batch = next(iter(session.get_inputs()[0].shape), None)
    size = batch if isinstance(batch, int) else _AT_ONCE
    firsts = range(0, cases, size)
    ends = [first + size if isinstance(batch, int) else min(first + size, cases) for first in firsts]
    batches = [np.arange(first, end) % cases for first, end in zip(firsts, ends, strict=True)]
    taken = _taken(session, inputs)
    return [session.run(names, {name: array[few] for name, array in taken.items()}) for few in batches]


def _measure(graph: onnx.ModelProto, tensors: Sequence[str], *, finite: bool = False) -> list[str]:
    """Adds to a graph the largest absolute value of each of these tensors, as outputs of the names returned.

    With `finite`, what is infinite or no number counts as zero, which takes another two operators.
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


def _taken(session: ort.InferenceSession, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """The inputs in the types that a graph takes: a widened one has FP32 for the FP16 of the graph that it is of."""
    single = {each.name for each in session.get_inputs() if each.type == "tensor(float)"}
    return {name: array.astype(np.float32, copy=False) if name in single else array for name, array in inputs.items()}


def emulate(half: onnx.ModelProto, *, results: bool = True) -> onnx.ModelProto:
    """The FP32 graph that computes what FP16 hardware makes of `half`; or exactly, if `results` are not rounded."""
    graph = with_types(half).graph
    halves = {value.name for value in (*graph.input, *graph.value_info, *graph.output) if results and _is_half(value)}
    weights = [_single(weight) for weight in graph.initializer]
    nodes = [each for node in graph.node for each in _rounding(node, halves)]
    inputs, outputs = ([_as_single(value) for value in values] for values in (graph.input, graph.output))
    made = helper.make_graph(nodes, graph.name, inputs, outputs, weights)
    return helper.make_model(made, opset_imports=half.opset_import, ir_version=half.ir_version)


def with_types(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the type of every tensor; what a faulty graph says of its own shapes may be wrong."""
    try:
        return onnx.shape_inference.infer_shapes(model, strict_mode=True)
    except onnx.shape_inference.InferenceError:
        del model.graph.value_info[:]
        return onnx.shape_inference.infer_shapes(model, strict_mode=True)


def _is_half(value: onnx.ValueInfoProto) -> bool:
    return bool(value.type.tensor_type.elem_type == TensorProto.FLOAT16)


def _single(weight: TensorProto) -> TensorProto:
    if weight.data_type != TensorProto.FLOAT16:
        return weight
    return numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float32), weight.name)


def _as_single(value: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    if _is_half(value):
        value.type.tensor_type.elem_type = TensorProto.FLOAT
    return value


def _rounding(node: onnx.NodeProto, halves: set[str]) -> list[onnx.NodeProto]:
    """The node in FP32, with every FP16 result of it rounded to FP16 and widened again."""
    nodes = [node]
    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT16:
            attribute.i = TensorProto.FLOAT
        if attribute.HasField("t"):
            attribute.t.CopyFrom(_single(attribute.t))
    for place, name in enumerate(node.output):
        if name in halves:
            exact, half = name + _EXACT, f"{name}/half"
            node.output[place] = exact
            nodes.append(helper.make_node("Cast", [exact], [half], half, to=TensorProto.FLOAT16))
            nodes.append(helper.make_node("Cast", [half], [name], f"{name}/single", to=TensorProto.FLOAT))
    return nodes
