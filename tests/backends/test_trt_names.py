"""Every TensorRT name the code uses, held against what each release really has: no GPU and no TensorRT needed."""

from __future__ import annotations

import ast
import importlib
import json
from pathlib import Path

import pytest

from tests.conftest import ROOT

NAMES: dict[str, dict[str, list[str]]] = json.loads((Path(__file__).parent / "trt_api_names.json").read_text())
SOURCES = ("deploytool/backends/tensorrt_builder.py", "deploytool/backends/tensorrt.py")
CLASS_OF = {  # how the code calls what it holds
    "builder": "Builder",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "error": "ParserError",
    "config": "IBuilderConfig",
    "profile": "IOptimizationProfile",
    "layer": "ILayer",
    "_runtime": "Runtime",
    "_engine": "ICudaEngine",
    "_context": "IExecutionContext",
}
OF_THE_MODULE = {"Logger", "nptype", "__version__"}  # the lists hold classes and enumerations only
RTX_ONLY = {
    ("IBuilderConfig", "num_compute_capabilities"),
    ("IBuilderConfig", "set_compute_capability"),
    ("ComputeCapability", ""),
}
RELEASES = ("tensorrt-10.3.0", "tensorrt-10.13.0.35", "tensorrt-10.16.1.11", "tensorrt-11.4.0.106")
RTX = "tensorrt_rtx-1.7.1.116"


def used() -> set[tuple[str, str]]:
    """(class, member) pairs, the member empty where the class itself is meant."""
    found = set()
    for source in SOURCES:
        for node in ast.walk(ast.parse((ROOT / source).read_text())):
            if isinstance(node, ast.Attribute) and node.attr != "__init__":
                found |= pair(node)
    return found


def pair(node: ast.Attribute) -> set[tuple[str, str]]:
    holder = node.value
    if isinstance(holder, ast.Attribute) and is_trt(holder.value):  # trt.Class.member
        return {(holder.attr, node.attr)}
    if is_trt(holder):  # trt.Class
        return {(node.attr, "")}
    if isinstance(holder, ast.Call) and isinstance(holder.func, ast.Attribute) and holder.func.attr == "get_output":
        return {("ITensor", node.attr)}
    name = holder.id if isinstance(holder, ast.Name) else holder.attr if isinstance(holder, ast.Attribute) else ""
    return {(CLASS_OF[name], node.attr)} if name in CLASS_OF else set()


def is_trt(node: ast.expr) -> bool:
    return "trt" in (getattr(node, "id", ""), getattr(node, "attr", "").lstrip("_"))


def missing(release: str) -> set[tuple[str, str]]:
    known = NAMES[release]
    return {
        (kind, member)
        for kind, member in used()
        if kind not in OF_THE_MODULE and (kind not in known or (member and member not in known[kind]))
    }


def test_the_scan_sees_what_the_code_uses() -> None:
    assert {
        ("NetworkDefinitionCreationFlag", "STRONGLY_TYPED"),
        ("Builder", "build_serialized_network"),
        ("OnnxParser", "parse"),
        ("IBuilderConfig", "progress_monitor"),
        ("IOptimizationProfile", "set_shape"),
        ("ITensor", "dtype"),
        ("IExecutionContext", "execute_async_v3"),
        ("ICudaEngine", "get_tensor_mode"),
        ("TensorIOMode", "OUTPUT"),
    } <= used()
    assert len(used()) >= 30


@pytest.mark.parametrize("release", RELEASES)
def test_only_the_choice_of_targets_is_rtxs_own(release: str) -> None:
    assert missing(release) == RTX_ONLY


def test_rtx_has_every_name() -> None:
    assert missing(RTX) == set()
    assert all(hasattr(importlib.import_module("tensorrt_rtx"), name) for name in OF_THE_MODULE)


def test_a_name_that_is_gone_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NAMES[RTX], "Builder", [name for name in NAMES[RTX]["Builder"] if name != "create_network"])
    assert missing(RTX) == {("Builder", "create_network")}
