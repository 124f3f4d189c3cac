from __future__ import annotations

import numpy as np

from deploytool.benchmark.machine_state import Conditions
from tests.bench import int8
from tests.bench.goals import ORT
from tests.bench.int8 import FP32, FP32_OPENVINO, INT8, INT8_OPENVINO, NNCF, QUANTIZATION, Cell
from tests.benchmark.simulated_machine import series

EVEN = Conditions(1, 2, 0.1, 0.0, 1.0, 1.0, 1.0, (), (), None)


def test_a_row_has_the_ratios_of_the_faster_runtime() -> None:
    times = {ORT: 20.0, FP32: 15.0, FP32_OPENVINO: 12.0, INT8: 10.0, INT8_OPENVINO: 8.0, QUANTIZATION: 16.0}
    timings = {name: series(np.full(30, milliseconds)) for name, milliseconds in times.items()}
    cell = Cell("mixnet_s", timings, EVEN, {NNCF: "nncf is not installed"})
    assert cell.row() == (
        "| mixnet_s | 20.00 | 15.00 | 12.00 | 10.00 | 8.00 | 16.00 | – | 2.50 (2.50–2.50) | 1.50 (1.50–1.50) "
        "| 2.00 (2.00–2.00) | – | 30 | even |"
    )
    *_, names, line = int8.header(1)
    assert names.count("|") == line.count("|") == cell.row().count("|")
