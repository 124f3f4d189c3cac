"""Measures INT8 graphs of whole models: `python -m tests.precision.int8.zoo GRAPH…` (FP32 ONNX files, batch first).

For each graph: the share of MACs in INT8 as placed and as ONNX Runtime, OpenVINO (if it is installed) and TensorRT-RTX
run it, with the kernels and the traffic of its engine beside those of FP16, and with `--time` the speed of the form for
this processor, in turns with the FP32 graph in ONNX Runtime. Ranges are those of uniform random inputs.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from deploytool.backends import tensorrt_estimate
from deploytool.precision import fp16
from deploytool.precision.int8 import executed, macs
from deploytool.precision.int8.quantize import candidates, quantize
from deploytool.results.int8_forms import Form
from deploytool.spec import Range, Tensor
from tests.precision.int8.ranges import measured_ranges

Call = Callable[[], object]


def inputs_of(graph: onnx.ModelProto, batch: int) -> dict[str, np.ndarray[Any, Any]]:
    generator = np.random.default_rng(0)
    shapes = {value.name: value.type.tensor_type.shape.dim for value in graph.graph.input}
    return {
        name: generator.uniform(-2, 2, (batch, *(size.dim_value for size in dims[1:]))).astype(np.float32)
        for name, dims in shapes.items()
    }


def session(graph: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    return ort.InferenceSession(graph.SerializeToString(), options)


def compiled(graph: onnx.ModelProto) -> Any:
    """The graph at batch 1, compiled by OpenVINO for one thread of the CPU."""
    from openvino import Core  # type: ignore[import-not-found,unused-ignore]

    core = Core()
    model = core.read_model(graph.SerializeToString())
    model.reshape({port.any_name: [1, *port.partial_shape[1:]] for port in model.inputs})
    return core.compile_model(model, "CPU", {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"})


def engine(graph: onnx.ModelProto) -> tuple[str, int]:
    """The log of TensorRT-RTX's build of the graph, for batches up to 8, and the size of the engine."""
    inputs = [
        Tensor(value.name, ("batch", *(size.dim_value for size in value.type.tensor_type.shape.dim[1:])))
        for value in graph.graph.input
    ]
    return tensorrt_estimate.build_log(graph.SerializeToString(), inputs, {"batch": Range(1, 1, 8)})


def forbidden(graph: onnx.ModelProto) -> dict[str, int]:
    """The INT32 constants that are dequantized, and the zero points other than zero: TensorRT takes neither."""
    weights = {weight.name: weight for weight in graph.graph.initializer}
    scaled = [node for node in graph.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    int32 = [node for node in scaled if getattr(weights.get(node.input[0]), "data_type", 0) == onnx.TensorProto.INT32]
    points = [weights[node.input[2]] for node in scaled if len(node.input) > 2]
    asymmetric = [point for point in points if onnx.numpy_helper.to_array(point).any()]
    return {"int32": len(int32), "asymmetric": len(asymmetric)}


def in_turns(calls: dict[str, Call], rounds: int) -> dict[str, float]:
    """How many times faster every call is than the first: the median of the ratios of processor time, turn by turn."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 2):
        for name, call in calls.items():
            begin = time.process_time()
            call()
            times[name].append(1e3 * (time.process_time() - begin))
    first = next(iter(times.values()))
    ratios = {name: [a / b for a, b in zip(first[2:], ms[2:], strict=True)] for name, ms in times.items()}
    return {name: round(median(values), 2) for name, values in ratios.items()}


def on_cpu(graph: onnx.ModelProto, form: Form, rounds: int) -> dict[str, Any]:
    ranges = measured_ranges(graph, inputs_of(graph, 2))
    quantized, allowed, counts = quantize(graph, ranges, form), candidates(graph, form), macs.count(graph)
    run = {"as placed": macs.in_graph(quantized)}
    run["onnxruntime"] = executed.in_onnxruntime(executed.onnxruntime_graph(quantized))
    one = inputs_of(graph, 1)
    plain, ours = session(graph), session(quantized)
    calls: dict[str, Call] = {"FP32": lambda: plain.run(None, one), "INT8": lambda: ours.run(None, one)}
    if importlib.util.find_spec("openvino"):
        model = compiled(quantized)
        run["openvino"] = executed.in_openvino(model.get_runtime_model())
        calls["INT8 openvino"] = lambda: model(one)
    shares = {name: macs.share(counts, names, allowed) for name, names in run.items()}
    figures = {name: (round(100 * part.of_allowed, 1), round(100 * part.of_all, 1)) for name, part in shares.items()}
    return {"share": figures} | ({"speed": in_turns(calls, rounds)} if rounds else {})


def on_tensorrt(graph: onnx.ModelProto) -> dict[str, Any]:
    quantized = quantize(graph, measured_ranges(graph, inputs_of(graph, 2)), Form.TENSORRT)
    counts, allowed = macs.count(graph), candidates(graph, Form.TENSORRT)
    engines = {"int8": engine(quantized), "fp16": engine(fp16.convert(graph, keep_io=True).half)}
    shares = {"as placed": macs.in_graph(quantized), "tensorrt": executed.in_tensorrt(engines["int8"][0])}
    parts = {name: macs.share(counts, names, allowed) for name, names in shares.items()}
    figures = {name: (round(100 * part.of_allowed, 1), round(100 * part.of_all, 1)) for name, part in parts.items()}
    costs = {name: asdict(tensorrt_estimate.parse_log(*built)) for name, built in engines.items()}
    return {"share": figures, "cost": costs, **forbidden(quantized)}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("graphs", nargs="+", type=Path)
    parser.add_argument("--form", type=Form, choices=list(Form), default=Form.U8S7, help="for the CPU")
    parser.add_argument("--time", type=int, default=0, metavar="ROUNDS")
    options = parser.parse_args(arguments)
    for path in options.graphs:
        graph = onnx.load(path)
        rows = {options.form: on_cpu(graph, options.form, options.time), Form.TENSORRT: on_tensorrt(graph)}
        for name, row in rows.items():
            print(f"{path} {name}: {json.dumps(row)}", flush=True)


if __name__ == "__main__":
    main()
