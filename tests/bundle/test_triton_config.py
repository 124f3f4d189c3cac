from __future__ import annotations

import json
import re

from deploytool.bundle import triton_config
from deploytool.spec import Precision, Tensor

IMAGE, LOGITS = Tensor("image", ("batch", 3, "H", "W")), Tensor("logits", ("batch", 10))


def test_a_graph_has_no_batch_axis_and_dynamic_sizes() -> None:
    assert triton_config.graph_config("net", [IMAGE], [LOGITS], Precision.FP32, 16) == (
        'name: "net"\n'
        'platform: "onnxruntime_onnx"\n'
        "max_batch_size: 16\n"
        'input [\n  { name: "image" data_type: TYPE_FP32 dims: [ 3, -1, -1 ] }\n]\n'
        'output [\n  { name: "logits" data_type: TYPE_FP32 dims: [ 10 ] }\n]\n'
    )


def test_fp16_io_applies_to_floating_point_tensors_only() -> None:
    text = triton_config.graph_config(
        "net", [IMAGE, Tensor("tokens", ("batch", 4), "int64")], [LOGITS], Precision.FP16, 1
    )
    assert 'image" data_type: TYPE_FP16' in text
    assert 'tokens" data_type: TYPE_INT64' in text


def test_plans_are_chosen_by_compute_capability_without_a_default() -> None:
    text = triton_config.engine_config(
        "net_trt", [IMAGE], [LOGITS], Precision.FP32, 8, {"9.0": "b.plan", "8.9": "a.plan"}
    )
    assert 'platform: "tensorrt_plan"' in text
    assert '{ key: "8.9" value: "a.plan" },\n  { key: "9.0" value: "b.plan" }' in text
    assert "default_model_filename" not in text


def test_names_are_quoted() -> None:
    name = 'a" data_type: TYPE_BOOL }\n  { name: "b'
    text = triton_config.graph_config(
        name, [Tensor(name, ("batch", 3))], [Tensor("o", ("batch", 2))], Precision.FP32, 4
    )
    assert text.count("data_type: TYPE_FP32") == 2
    assert '\n  { name: "b' not in text
    assert [json.loads(quoted) for quoted in re.findall(r'name: ("(?:[^"\\]|\\.)*")', text)] == [name, name, "o"]
