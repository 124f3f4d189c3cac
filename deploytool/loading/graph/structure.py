"""Checks the structure of a given graph before any library interprets it: names, order, operators, versions."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto

from deploytool.errors import BadInput

MIN_OPSET = 7  # the first opset whose operators broadcast as numpy does
_STANDARD = ("", "ai.onnx")
_RUNTIME = "com.microsoft"  # operators that ONNX Runtime writes into graphs that it optimised
_STANDARD_ONLY = "export the model with standard ONNX operators only"
_MAX_DEPTH = 16  # of graphs inside the nodes of graphs
_MAX_NAME = 1000  # characters
RANDOM = ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli")
_SELECTING = ("NonMaxSuppression", "NonZero", "Unique", "Compress")  # how much they keep depends on values
_AGAIN = "export the model again"


def check(model: ModelProto, name: str) -> None:
    """Raises BadInput, which names the node or tensor, for a graph that is not valid or that no stage supports."""
    graph = model.graph
    if not graph.node:
        raise BadInput(f"{name} contains no nodes", "check that it is the file of a model")
    if not model.ir_version or model.ir_version > onnx.IR_VERSION:
        problem = f"{name} has IR version {model.ir_version}, and onnx {onnx.__version__} reads 1 to {onnx.IR_VERSION}"
        raise BadInput(problem, "export it for an older version, or install a newer onnx and ONNX Runtime")
    opset(model, name)
    _check_lengths(model, name)
    if graph.sparse_initializer:
        weight = graph.sparse_initializer[0].values.name
        raise BadInput(f"{name} has the sparse weight {weight}", "save it as a dense initializer")
    functions = {(function.domain, function.name) for function in model.functions}
    versions = {opset.domain: opset.version for opset in model.opset_import}
    for node in nodes(graph, name):
        _check_operator(node, versions, functions, name)
    _check_names(graph, frozenset(), name)
    if not inputs(graph):
        raise BadInput(f"{name} has no inputs: it computes constants", "export the model with its inputs")
    if not graph.output:
        raise BadInput(f"{name} has no outputs", "export the model with its outputs")


def _check_lengths(model: ModelProto, name: str) -> None:
    """Raises BadInput for a name that is too long for a message, and for the files that tensors are stored in."""
    longest = max(_names(model, name), key=len, default="")
    if len(longest) > _MAX_NAME:
        problem = f"{name} has a name of {len(longest):,} characters: {longest[:40]}…"
        raise BadInput(problem, f"export the model with names of at most {_MAX_NAME:,} characters")


def _names(model: ModelProto, name: str) -> Iterator[str]:
    """The names of nodes, operators, tensors and dimensions, also in the graphs inside nodes."""
    found = list(nodes(model.graph, name))
    for node in found:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
    for graph in (model.graph, *(body for node in found for body in bodies(node))):
        values = (*graph.input, *graph.output, *graph.value_info)
        yield from (entry.name for entry in (*values, *graph.initializer))
        yield from (size.dim_param for value in values for size in value.type.tensor_type.shape.dim)


def opset(model: ModelProto, name: str) -> int:
    """The version of the standard operators; raises BadInput if there is none, or if it is out of range."""
    versions = [entry.version for entry in model.opset_import if entry.domain in _STANDARD]
    if not versions:
        raise BadInput(f"{name} states no opset", _AGAIN)
    newest = onnx.defs.onnx_opset_version()
    if not MIN_OPSET <= versions[0] <= newest:
        problem = f"{name} has opset {versions[0]}, and {MIN_OPSET} to {newest} are supported"
        raise BadInput(problem, "export it for a version in this range: opset 18")
    return int(versions[0])


def inputs(graph: GraphProto) -> list[onnx.ValueInfoProto]:
    """The inputs of a graph without those that are initialisers with another value possible."""
    weights = {weight.name for weight in graph.initializer}
    return [value for value in graph.input if value.name not in weights]


def nodes(graph: GraphProto, name: str, depth: int = 0) -> Iterator[NodeProto]:
    """Every node of a graph and of the graphs inside its nodes; raises BadInput if these are nested too deep."""
    if depth > _MAX_DEPTH:
        raise BadInput(f"{name} nests graphs more than {_MAX_DEPTH} deep", _AGAIN)
    for node in graph.node:
        yield node
        for inner in bodies(node):
            yield from nodes(inner, name, depth + 1)


def bodies(node: NodeProto) -> list[GraphProto]:
    """The graphs inside a node: branches of an If, the body of a Loop or Scan."""
    single = [attribute.g for attribute in node.attribute if attribute.type == AttributeProto.GRAPH]
    return [*single, *(graph for attribute in node.attribute for graph in attribute.graphs)]


def size_source(graph: GraphProto, output: str) -> NodeProto | None:
    """The nearest node before `output` whose result has a size that depends on values; None if there is none."""
    makers: dict[str, NodeProto] = {name: node for node in graph.node for name in node.output if name}
    queue, seen = [output], {output}
    for name in queue:
        node = makers.get(name)
        if node is None:
            continue
        if any(inner.op_type in _SELECTING for inner in (node, *(n for body in bodies(node) for n in body.node))):
            return node
        free = [used for body in bodies(node) for inner in body.node for used in inner.input]
        fresh = dict.fromkeys(used for used in (*node.input, *free) if used and used not in seen)
        queue.extend(fresh)
        seen.update(fresh)
    return None


def label(node: NodeProto) -> str:
    """`Conv node 'conv1'`; without a name, its first output is named."""
    name = node.name or next((output for output in node.output if output), "")
    return f"{node.op_type} node {name!r}"


def _check_operator(
    node: NodeProto, versions: dict[str, int], functions: Collection[tuple[str, str]], name: str
) -> None:
    if (node.domain, node.op_type) in functions:
        return
    if node.domain not in _STANDARD:
        problem = f"{name}: the {label(node)} is an operator of the domain {node.domain}, which is not supported"
        remedy = "give the file from before ONNX Runtime optimised it" if node.domain == _RUNTIME else _STANDARD_ONLY
        raise BadInput(problem, remedy)
    version = versions.get("", versions.get("ai.onnx", 0))
    if not onnx.defs.has(node.op_type, "") or not _is_defined(node.op_type, version):
        raise BadInput(f"{name}: the {label(node)} has no definition in opset {version}", _AGAIN)
    if node.op_type in RANDOM:
        problem = f"{name}: the {label(node)} draws random numbers, so no two runs are equal"
        raise BadInput(problem, "export the model in evaluation mode, or pass the random numbers as an input")


def _is_defined(operator: str, version: int) -> bool:
    try:
        onnx.defs.get_schema(operator, version, "")
    except onnx.defs.SchemaError:
        return False
    return True


def _check_names(graph: GraphProto, outer: frozenset[str], name: str) -> None:
    """Raises BadInput for a tensor that is made twice, or used before it is made or without being made."""
    known = {value.name for value in graph.input} | {weight.name for weight in graph.initializer}
    for kind, values in (("input", graph.input), ("initializer", graph.initializer)):
        names = [value.name for value in values]
        if len(set(names)) < len(names):
            raise BadInput(f"{name} has two {kind}s named {max(names, key=names.count)!r}", _AGAIN)
    made = {output for node in graph.node for output in node.output}
    for node in graph.node:
        for used in node.input:
            if used and used not in known and used not in outer:
                what = "made only later: a cycle, or nodes out of order" if used in made else "made nowhere"
                raise BadInput(f"{name}: the {label(node)} reads {used!r}, which is {what}", _AGAIN)
        for inner in bodies(node):
            _check_names(inner, outer | known, name)
        for output in node.output:
            if output and output in known:
                raise BadInput(f"{name}: {output!r} is made twice, again by the {label(node)}", _AGAIN)
            known.add(output)
    missing = next((value.name for value in graph.output if value.name not in known | outer), None)
    if missing is not None:
        raise BadInput(f"{name}: the output {missing!r} is made nowhere", _AGAIN)
