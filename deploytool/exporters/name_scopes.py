"""Maps ONNX node names to modules of the PyTorch model, and module or node names to nodes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from difflib import get_close_matches

from deploytool.errors import BadInput


def module_path(node: str, modules: Collection[str]) -> str:
    """The path of the innermost PyTorch module in the name of an ONNX node; "" for the model itself.

    Handles both naming schemes: `/stem/stem.0/Conv` (torchscript, scopes repeat their parents) and `/stem/0/Conv_12`
    (dynamo). Scopes that are no module in `modules` are skipped.
    """
    path = ""
    for scope in node.split("/")[1:-1]:
        parts = path.split(".") if path else []
        candidates = (".".join([*parts[:depth], scope]) for depth in range(len(parts), -1, -1))
        path = next((candidate for candidate in candidates if candidate in modules), path)
    return path


def modules(keys: Iterable[str]) -> frozenset[str]:
    """The paths of all modules that own a key of the state dict, with their ancestors; "" is the model itself."""
    paths = {""}
    for key in keys:
        parts = key.split(".")[:-1]
        paths |= {".".join(parts[:depth]) for depth in range(1, len(parts) + 1)}
    return frozenset(paths)


def matching_nodes(names: Iterable[str], nodes: Sequence[str], modules: Collection[str]) -> frozenset[str]:
    """The nodes selected by `names`: each name is that of a node, or of a module in `modules` with its submodules.

    Raises BadInput for a name that selects no node, and suggests the nearest names.
    """
    paths = {node: module_path(node, modules) for node in nodes}
    selected: set[str] = set()
    for name in names:
        nodes_of_name = {node for node in nodes if node == name or f"{paths[node]}.".startswith(f"{name}.")}
        if not nodes_of_name:
            known = [*sorted({path for path in paths.values() if path}), *nodes]
            nearest = get_close_matches(name, known, n=3, cutoff=0.4) or known[:3]
            raise BadInput(f"no module and no FP16 node is named {name!r}", f"the nearest are {', '.join(nearest)}")
        selected |= nodes_of_name
    return frozenset(selected)


def shortest_names(wanted: Collection[str], nodes: Sequence[str], modules: Collection[str]) -> list[str]:
    """The shortest list of names, modules before nodes, for which `matching_nodes` returns exactly `wanted`."""
    paths = {node: module_path(node, modules) for node in nodes}
    names: list[str] = []
    remaining = set(wanted)
    for path in sorted(_with_ancestors(paths.values()), key=lambda path: path.count(".")):
        nodes_of_module = {node for node in nodes if f"{paths[node]}.".startswith(f"{path}.")}
        if nodes_of_module & remaining and nodes_of_module <= set(wanted):
            names.append(path)
            remaining -= nodes_of_module
    return [*names, *(node for node in nodes if node in remaining)]


def group_by_module(nodes: Sequence[str], modules: Collection[str], depth: int = 2) -> list[list[str]]:
    """Groups the nodes by the first `depth` parts of their module path; keeps the order of the nodes."""
    groups: dict[str, list[str]] = {}
    for node in nodes:
        path = ".".join(module_path(node, modules).split(".")[:depth])
        groups.setdefault(path, []).append(node)
    return list(groups.values())


def _with_ancestors(paths: Iterable[str]) -> list[str]:
    """The modules and their ancestors, without duplicates, in the order of the paths."""
    ancestors = [path.split(".")[:depth] for path in paths if path for depth in range(1, path.count(".") + 2)]
    return list(dict.fromkeys(".".join(parts) for parts in ancestors))
