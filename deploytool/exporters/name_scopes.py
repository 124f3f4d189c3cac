"""Which module of the source model the name of an ONNX node leads to, and which nodes a name of either kind means."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from difflib import get_close_matches

from deploytool.errors import BadInput


def module_path(node: str, modules: Collection[str]) -> str:
    """The PyTorch module that the name of an ONNX node leads to, "" if it leads no further than the model itself.

    The scopes of `/stem/stem.0/Conv` (torchscript, which repeats itself) and of `/stem/0/Conv_12` (dynamo) are
    followed one by one, as far as there are such modules.
    """
    path = ""
    for scope in node.split("/")[1:-1]:
        parts = path.split(".") if path else []
        ways = (".".join([*parts[:depth], scope]) for depth in range(len(parts), -1, -1))
        path = next((way for way in ways if way in modules), path)
    return path


def modules(keys: Iterable[str]) -> frozenset[str]:
    """The modules that the keys of a model's weights belong to, and those around them."""
    found = {""}
    for key in keys:
        parts = key.split(".")[:-1]
        found |= {".".join(parts[:depth]) for depth in range(1, len(parts) + 1)}
    return frozenset(found)


def matching_nodes(names: Iterable[str], nodes: Sequence[str], among: Collection[str]) -> frozenset[str]:
    """The nodes that are called so, or that belong to a module that is called so or lies in it.

    Raises BadInput if a name is neither a node's nor that of a module among those given with a node in it.
    """
    paths = {node: module_path(node, among) for node in nodes}
    found: set[str] = set()
    for name in names:
        inside = {node for node in nodes if node == name or f"{paths[node]}.".startswith(f"{name}.")}
        if not inside:
            known = [*sorted({path for path in paths.values() if path}), *nodes]
            near = get_close_matches(name, known, n=3, cutoff=0.4) or known[:3]
            raise BadInput(f"no module and no FP16 node is called {name!r}", f"the nearest are {', '.join(near)}")
        found |= inside
    return frozenset(found)


def shortest_names(wanted: Collection[str], nodes: Sequence[str], among: Collection[str]) -> list[str]:
    """The shortest list of names, modules before nodes, by which `matching_nodes` finds exactly the wanted nodes."""
    paths = {node: module_path(node, among) for node in nodes}
    names: list[str] = []
    left = set(wanted)
    for path in sorted(_around(paths.values()), key=lambda path: path.count(".")):
        inside = {node for node in nodes if f"{paths[node]}.".startswith(f"{path}.")}
        if inside & left and inside <= set(wanted):
            names.append(path)
            left -= inside
    return [*names, *(node for node in nodes if node in left)]


def group_by_module(nodes: Sequence[str], among: Collection[str], depth: int = 2) -> list[list[str]]:
    """The nodes in their order, together where their modules' paths begin with the same so many parts."""
    groups: dict[str, list[str]] = {}
    for node in nodes:
        path = ".".join(module_path(node, among).split(".")[:depth])
        groups.setdefault(path, []).append(node)
    return list(groups.values())


def _around(paths: Iterable[str]) -> list[str]:
    """The modules of these paths and those around them, each once, in the order of the paths."""
    around = [path.split(".")[:depth] for path in paths if path for depth in range(1, path.count(".") + 2)]
    return list(dict.fromkeys(".".join(parts) for parts in around))
