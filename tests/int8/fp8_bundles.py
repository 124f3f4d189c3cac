"""Campaign: what the golden answers of an FP8 graph find and let pass; `python -m tests.int8.fp8_bundles [NETWORKS]`.

Random networks, with planted faults, and with every activation moved at random before it is quantised by up to half a
step, a step and two steps of FP16, from other seeds than those of the limits. `beyond` has the faults that change the
outputs by more than twice what FP8 itself does.
"""

from __future__ import annotations

import sys
from collections import Counter

import numpy as np
import onnx

from deploytool.backends import onnxruntime
from deploytool.data.golden import Arrays
from deploytool.parity import fp8_answers, metrics
from deploytool.precision.int8 import calibration, quantize
from deploytool.precision.int8.calibration import Method
from deploytool.results.int8_forms import Form
from deploytool.results.output_parts import OutputPart
from tests.int8 import planted_bundles, quantized
from tests.parity.test_int8_answers import sample

FORM = Form.E4M3
FAULTS = ("wrong scale", "stale scale", "swapped scales")
PLACES, DRAWS = 3, 5


def graph_of(source: onnx.ModelProto) -> onnx.ModelProto:
    table = calibration.collect(source, quantize.activations(source, FORM), [{"image": quantized.pictures(1000, 16)}])
    return quantize.quantize(source, table.ranges(Method.MIN_MAX, symmetric=True), FORM)


def distance(got: Arrays, expected: Arrays) -> float:
    """The root mean square of the difference, relative to that of the expected values."""
    (one,), (other,) = got.values(), expected.values()
    return float(np.sqrt(np.square(one - other).mean() / np.square(other).mean()))


def main() -> None:
    found: Counter[str] = Counter()
    tried: Counter[str] = Counter()
    for seed in range(int(sys.argv[1]) if len(sys.argv) > 1 else 10):
        source = quantized.network(seed, blocks=3)
        graph, cases = graph_of(source), sample({"image": quantized.pictures(seed, 8)}, [])
        name = graph.graph.output[0].name
        cases = sample(dict(cases.inputs), [OutputPart(name)])
        answers = fp8_answers.record(graph, cases.inputs)
        limits = fp8_answers.limits(graph, answers, cases)
        with onnxruntime.start(source.SerializeToString()) as session:
            own = distance(answers, session(**cases.inputs))
        for fault in FAULTS:
            for place in range(PLACES):
                planted = onnx.load_from_string(planted_bundles.planted(graph.SerializeToString(), fault, place))
                got = fp8_answers.record(planted, cases.inputs)
                broken = bool(metrics.check(got, answers, "itself", limits).broken)
                far = not distance(got, answers) <= 2 * own
                for kind in (fault, *(["beyond"] if far else [])):
                    tried[kind] += 1
                    found[kind] += broken
        for steps in (0.5, 1, 2):
            fp8_answers._MOVED = steps * 2.0**-10
            for draw in range(100, 100 + DRAWS):
                got = fp8_answers.record(fp8_answers._moved(graph, draw), cases.inputs)
                tried[f"moved by {steps} steps"] += 1
                found[f"moved by {steps} steps"] += bool(metrics.check(got, answers, "itself", limits).broken)
        fp8_answers._MOVED = 2.0**-11
        print(seed, {kind: f"{found[kind]} of {count}" for kind, count in tried.items()}, flush=True)


if __name__ == "__main__":
    main()
