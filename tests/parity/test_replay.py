from __future__ import annotations

import numpy as np
import pytest

from deploytool.backends.session import Array
from deploytool.errors import StageFailed
from deploytool.parity.replay import replay
from deploytool.spec import Range


@pytest.mark.parametrize(
    ("batch", "sizes"),
    [
        (Range(1, 8, 32), [7]),
        (Range(1, 2, 4), [4, 3]),
        (Range(1, 1, 1), [1] * 7),
        (Range(4, 4, 4), [4, 4]),
        (Range(16, 16, 16), [16]),
    ],
)
def test_answers_keep_the_order_of_cases_in_batches_that_the_session_accepts(batch: Range, sizes: list[int]) -> None:
    batches = []

    def session(**inputs: Array) -> dict[str, Array]:
        batches.append(len(inputs["x"]))
        return {"y": inputs["x"] * 2}

    inputs = {"x": np.arange(7, dtype=np.float32)}
    np.testing.assert_array_equal(replay(session, inputs, batch)["y"], inputs["x"] * 2)
    assert batches == sizes


def test_another_number_of_answers_is_refused() -> None:
    with pytest.raises(StageFailed, match="y has 1 results for 3 cases"):
        replay(lambda **inputs: {"y": inputs["x"][:1]}, {"x": np.zeros(3)})
