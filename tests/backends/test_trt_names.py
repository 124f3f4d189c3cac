"""Every TensorRT name that the code uses exists in each supported release; needs neither a GPU nor TensorRT."""

from __future__ import annotations

import ast
import importlib
import json
from pathlib import Path

import pytest

from tests.conftest import ROOT

NAMES: dict[str, dict[str, list[str]]] = json.loads((Path(__file__).parent / "trt_api_names.json").read_text())
SOURCES = tuple(
    f"deploytool/backends/{name}.py" for name in ("tensorrt_builder", "tensorrt_config", "tensorrt_refit", "tensorrt")
)
CLASS_OF = {  # the class of each variable name in the code
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
    "refitter": "Refitter",
    "parser_refitter": "OnnxParserRefitter",
}
MODULE_NAMES = {"Logger", "nptype", "__version__"}  # not in the lists, which hold classes and enumerations only
RTX_ONLY = {
    ("IBuilderConfig", "num_compute_capabilities"),
    ("IBuilderConfig", "set_compute_capability"),
    ("ComputeCapability", ""),
}
RELEASES = ("tensorrt-10.3.0", "tensorrt-10.13.0.35", "tensorrt-10.16.1.11", "tensorrt-11.4.0.106")
RTX = "tensorrt_rtx-1.7.1.116"


def used_names() -> set[tuple[str, str]]:
    """The (class, member) pairs in the sources; the member is empty where the class itself is used."""
    pairs = set()
    for source in SOURCES:
        for node in ast.walk(ast.parse((ROOT / source).read_text())):
            if isinstance(node, ast.Attribute) and node.attr != "__init__":
                pairs |= class_and_member(node)
    return pairs


def class_and_member(node: ast.Attribute) -> set[tuple[str, str]]:
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


def missing_names(release: str) -> set[tuple[str, str]]:
    known = NAMES[release]
    return {
        (name, member)
        for name, member in used_names()
        if name not in MODULE_NAMES and (name not in known or (member and member not in known[name]))
    }


def test_the_scan_finds_the_names_in_the_code() -> None:
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
    } <= used_names()
    assert len(used_names()) >= 30


@pytest.mark.parametrize("release", RELEASES)
def test_only_compute_capabilities_are_missing_outside_rtx(release: str) -> None:
    assert missing_names(release) == RTX_ONLY


def test_rtx_has_every_name() -> None:
    assert missing_names(RTX) == set()
    assert all(hasattr(importlib.import_module("tensorrt_rtx"), name) for name in MODULE_NAMES)


def test_a_removed_name_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NAMES[RTX], "Builder", [name for name in NAMES[RTX]["Builder"] if name != "create_network"])
    assert missing_names(RTX) == {("Builder", "create_network")}
