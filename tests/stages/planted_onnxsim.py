"""A replacement for onnxsim in the worker process: its passes do nothing, except those with a planted fault."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import onnx

PASSES = ("fuse_one", "fuse_two", "fuse_three", "fuse_four", "fuse_five")


def main() -> None:
    """Prints the names of the passes, as onnxsim does."""
    sys.stdout.write("\n".join(PASSES))


def simplify(
    model: onnx.ModelProto,
    *,
    check_n: int,
    certify: bool,
    skipped_optimizers: list[str],
    skip_constant_folding: bool,
    skip_shape_inference: bool,
) -> tuple[onnx.ModelProto, bool]:
    steps = {"constant-folding": not skip_constant_folding, "shape-inference": not skip_shape_inference}
    running = {step for step, on in steps.items() if on} | set(PASSES) - set(skipped_optimizers) | {"itself"}
    for name, fault in json.loads(os.environ["FAULTS"]).items():
        if name in running:
            FAULTS[fault](model)
    return model, True


def change(model: onnx.ModelProto) -> None:
    weight = next(tensor for tensor in model.graph.initializer if tensor.name.startswith("classifier.weight"))
    values = onnx.numpy_helper.to_array(weight).copy()
    values[3, 3] += 1e-2
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))


def fix_the_batch(model: onnx.ModelProto) -> None:
    """Fixes the batch size to the number of golden cases."""
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 4


def write_invalid_file(model: onnx.ModelProto) -> None:
    def save(_: onnx.ModelProto, path: str) -> None:
        Path(path).write_bytes(b"invalid")

    onnx.save = save  # type: ignore[assignment]  # its only call has these arguments


def write_nothing(model: onnx.ModelProto) -> None:
    os._exit(0)


def remove_node(model: onnx.ModelProto) -> None:
    del model.graph.node[1]


def rename_the_output(model: onnx.ModelProto) -> None:
    model.graph.node[-1].output[0] = model.graph.output[0].name = "other"


def hang(model: onnx.ModelProto) -> None:
    time.sleep(600)


def crash(model: onnx.ModelProto) -> None:
    os.abort()


def exhaust_memory(model: onnx.ModelProto) -> None:
    bytearray(1 << 40)


FAULTS = {
    fault.__name__: fault
    for fault in (
        change,
        fix_the_batch,
        write_invalid_file,
        write_nothing,
        remove_node,
        rename_the_output,
        hang,
        crash,
        exhaust_memory,
    )
}
