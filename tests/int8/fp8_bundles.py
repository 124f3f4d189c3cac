"""Campaign: what the answers of an FP8 graph refuse and let pass; `python -m tests.int8.fp8_bundles [SEED COUNT]`.

Random networks of six kinds are computed by kernels of six kinds, which share no code with deploytool: a refusal of
one is a false alarm. Then a fault of each kind is planted at a random product. `beyond` has those that change the
outputs by more than twice what FP8 itself does. The networks of seeds 0 to 4 but `dense` chose the measure of the
noise, so figures are those of other seeds.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import onnx

from deploytool.backends import onnxruntime
from deploytool.parity import fp8_answers, metrics
from deploytool.precision.int8 import calibration, quantize
from deploytool.precision.int8.calibration import Method
from deploytool.results.int8_forms import Form
from deploytool.results.output_parts import OutputPart
from deploytool.results.report import Check
from tests.int8 import fp8_networks, quantized
from tests.int8.fp8_kernels import Fault, Kernels, Planted, Rounded, Sums
from tests.parity.test_int8_answers import sample

Array = npt.NDArray[np.float32]

FORM, CASES, FAR = Form.E4M3, 8, 2.0
FIRST, COUNT = 100, 8


def graph_of(source: onnx.ModelProto) -> onnx.ModelProto:
    seen = {"image": quantized.pictures(1000, 16, size=fp8_networks.SIZE)}
    table = calibration.collect(source, quantize.activations(source, FORM), [seen])
    return quantize.quantize(source, table.ranges(Method.MIN_MAX, symmetric=True), FORM)


def distance(got: Array, expected: Array) -> float:
    """The root mean square of the difference, relative to that of the expected values."""
    return float(np.sqrt(np.square(got - expected).mean() / np.square(expected).mean()))


def outcomes(kind: str, seed: int) -> Iterator[tuple[str, bool, float]]:
    """Of each pair of one network: its kind, whether it is refused, and the share of its tolerance that it takes."""
    source = fp8_networks.KINDS[kind](seed)
    graph, images = graph_of(source), quantized.pictures(seed, CASES, size=fp8_networks.SIZE)
    cases = sample({"image": images}, [OutputPart(graph.graph.output[0].name)])
    answers = fp8_answers.record(graph, cases.inputs)
    limits = fp8_answers.limits(graph, answers, cases)
    (name, expected) = next(iter(answers.items()))
    with onnxruntime.start(source.SerializeToString()) as session:
        own = distance(expected, session(image=images)[name])

    def judged(got: Array) -> Check:
        return metrics.check({name: got}, answers, "itself", limits)

    for sums in Sums:
        for rounded in Rounded:
            check = judged(Kernels(graph, sums, rounded)(image=images))
            yield f"sound {kind}", bool(check.broken), metrics.largest_share(check)
    rng, places = np.random.default_rng(seed), Kernels(graph, Sums.FP32, Rounded.KERNELS).places
    for fault in Fault:
        got = Kernels(graph, Sums.FP32, Rounded.KERNELS, Planted(fault, int(rng.integers(places))))(image=images)
        check = judged(got)
        for label in (fault.value, *(["beyond"] if not distance(got, expected) <= FAR * own else [])):
            yield label, bool(check.broken), metrics.largest_share(check)


def main() -> None:
    first, count = (int(each) for each in (sys.argv[1:] or (FIRST, COUNT)))
    refused, tried, largest = Counter[str](), Counter[str](), dict[str, float]()
    for seed in range(first, first + count):
        for kind in fp8_networks.KINDS:
            for label, broken, share in outcomes(kind, seed):
                tried[label] += 1
                refused[label] += broken
                largest[label] = max(share, largest.get(label, 0.0))
        for label, total in tried.items():
            print(f"{label:50} refused {refused[label]:4} of {total:4}, at most {largest[label]:.2f} of the tolerance")
        print(f"seed {seed}", flush=True)


if __name__ == "__main__":
    main()
