"""What is timed of a run in INT8 and FP8: the INT8 graphs in the kernels of each runtime, and engines."""

from __future__ import annotations

from deploytool import serde
from deploytool.loading.stage_inputs import StageInputs
from deploytool.parity import checks
from deploytool.parity.checks import PlannedComparison
from deploytool.results.artifact import Kind
from deploytool.results.int8 import Int8


def steps(inputs: StageInputs, device: str) -> list[PlannedComparison]:
    """The rows in 8 bits on a device, and those that are known not to run here.

    A graph that came with its Q/DQ nodes is none of them: it is timed as the graph of the run.
    """
    given = any(serde.decode(Int8, each.notes["int8"]).as_given for each in inputs.chain(Kind.INT8_GRAPH))
    int8 = [] if given else checks.int8_comparisons(inputs)
    every = [*int8, *checks.fp8_comparisons(inputs)]
    return [step for step in every if not step.emulated and (step.device == device or step.absent)]


def with_fp32(inputs: StageInputs, device: str) -> list[PlannedComparison]:
    """The rows in 8 bits, after the FP32 graph that is best in OpenVINO if one of them runs there."""
    narrow = steps(inputs, device)
    return [*(checks.openvino_step(inputs) for step in narrow if step.runner == "openvino"), *narrow]
