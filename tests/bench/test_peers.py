from __future__ import annotations

import importlib.util
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from deploytool.benchmark.machine_state import Conditions
from deploytool.data import golden
from deploytool.data.golden import Arrays
from deploytool.errors import MissingBackend, StageFailed
from tests.bench import peers, rivals
from tests.bench.goals import OPENVINO, ORT
from tests.bench.peers import COLUMNS, Cell
from tests.bench.rivals import COMPILE, EAGER, OURS, OURS_OPENVINO
from tests.benchmark.simulated_machine import series

EVEN = Conditions(1, 2, 0.1, 0.0, 1.0, 1.0, 1.0, (), (), None)
HEAVY = {"+ onnxslim": "onnxslim", OPENVINO: "openvino", OURS_OPENVINO: "openvino"}


@pytest.fixture
def inputs(finished: Path) -> Arrays:
    return golden.read(finished / "golden" / "golden.npz").inputs


def test_every_installed_rival_computes_the_same_outputs(finished: Path, inputs: Arrays) -> None:
    weights, ours = finished / "load" / "weights.safetensors", finished / "rewrite" / "model.onnx"
    starters = rivals.rivals(weights, rivals.export_onnx(weights, inputs), ours, 1, inputs, compiled=False)
    assert list(starters) == [name for name in COLUMNS if name != COMPILE]
    with starters[EAGER]() as eager:
        for name, start in starters.items():
            if name in HEAVY and importlib.util.find_spec(HEAVY[name]) is None:
                with pytest.raises(MissingBackend, match=f"(?i){HEAVY[name]} cannot be imported"), start():
                    pass
                continue
            with start() as session:
                assert peers.largest_error({EAGER: eager, name: session}, inputs) < 1e-5, name


def test_a_rival_with_different_outputs_is_rejected(inputs: Arrays) -> None:
    def right(**_: object) -> dict[str, np.ndarray]:
        return {"logits": np.eye(3)}

    def wrong(**_: object) -> dict[str, np.ndarray]:
        return {"logits": np.eye(3) * 1.1}

    with pytest.raises(StageFailed, match="OpenVINO"):
        peers.largest_error({EAGER: right, OPENVINO: wrong}, inputs)


def test_both_libraries_compute_the_same_matrix_product() -> None:
    with ExitStack() as stack:
        first, second = peers.matrix_products(stack, threads=1).values()
        np.testing.assert_allclose(first().numpy(), second()["c"], rtol=1e-5)


def test_a_row_and_its_goals() -> None:
    times = {EAGER: 60.0, ORT: 20.0, OPENVINO: 12.0, OURS: 10.0, OURS_OPENVINO: 11.0} | dict(
        zip(peers.PEAKS, (4.0, 2.0), strict=True)
    )
    timings = {name: series(np.full(30, milliseconds)) for name, milliseconds in times.items()}
    cell = Cell("mixnet_s", 1, timings, EVEN, {COMPILE: "no compiler"}, 3e-7, round(1.25 * peers.SIDE**3))
    assert peers.row(cell) == (
        "| mixnet_s | 1 | 60.00 | – | 20.00 | – | – | 12.00 | 10.00 | 11.00 | 2.00 (2.00–2.00) | 1.20 (1.20–1.20) "
        "| 1.20 (1.20–1.20) | 2.00 (2.00–2.00) | 0.25 | 3e-07 | 30 | even |"
    )
    assert peers.notes([cell], 1)[3:] == [
        "- mixnet_s batch 1: ≥ 1.7× ORT: 2.00× (2.00–2.00), reached",
        "- mixnet_s batch 1: not behind OpenVINO: 1.20× (1.20–1.20), reached",
        "- mixnet_s batch 1: ≥ 0.98× the better of both: 1.20× (1.20–1.20), reached",
        "- torch.compile is missing: no compiler",
    ]


def test_the_better_of_both_runtimes_is_compared_on_either_side() -> None:
    times = {ORT: 20.0, OPENVINO: 12.0, OURS: 18.0, OURS_OPENVINO: 16.0}
    timings = {name: series(np.full(30, milliseconds)) for name, milliseconds in times.items()}
    assert Cell("mixnet_s", 1, timings, EVEN, {}, 3e-7, 0).best_ratio().value == 12 / 16


def test_a_delayed_rival_makes_the_row_uneven() -> None:
    timings = {ORT: series(np.full(30, 20.0), cpu=0.5), OURS: series(np.full(30, 10.0))}
    uneven = Cell("mixnet_s", 1, timings, EVEN, {}, 3e-7, 0).uneven()
    assert uneven == "ORT waited for a processor in 100% of its rounds"
