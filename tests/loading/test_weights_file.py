from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from deploytool.errors import BadInput
from deploytool.loading import weights_file
from tests.conftest import TINY


def test_values_equal_those_of_the_safetensors_library(finished: Path) -> None:
    path = finished / "load" / "weights.safetensors"
    assert weights_file.definition(path) == TINY
    expected, actual = load_file(path), weights_file.float_values(path)
    assert set(weights_file.names(path)) == set(expected)
    assert set(actual) == {name for name, tensor in expected.items() if tensor.is_floating_point()}
    for name, values in actual.items():
        array = np.frombuffer(values.data, values.dtype).reshape(values.shape)
        np.testing.assert_array_equal(array, expected[name].numpy())


def test_dtypes_that_numpy_lacks_are_left_out(tmp_path: Path) -> None:
    tensors = {
        "a": torch.ones(2, 3, dtype=torch.float16),
        "b": torch.ones(2, dtype=torch.bfloat16),
        "c": torch.ones(()),
    }
    save_file(tensors, tmp_path / "weights")
    values_by_name = weights_file.float_values(tmp_path / "weights")
    assert {name: (values.shape, np.dtype(values.dtype)) for name, values in values_by_name.items()} == {
        "a": ((2, 3), np.dtype(np.float16)),
        "c": ((), np.dtype(np.float32)),
    }
    assert set(weights_file.names(tmp_path / "weights")) == set(tensors)


@pytest.mark.parametrize("content", [b"", b"\x02\0\0\0\0\0\0\0{}", b"\xff" * 40])
def test_an_invalid_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "weights").write_bytes(content)
    with pytest.raises(BadInput, match="contains no model definition"):
        weights_file.definition(tmp_path / "weights")


HEADERS = [
    "[]",
    '{"a": 1}',
    '{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0]}}',
    '{"a": {"dtype": "F32"}}',
    "\xf8",
]
OUTSIDE = [
    f'{{"a": {{"dtype": "F32", "shape": [2], "data_offsets": [{ends}]}}}}' for ends in ("0, 9000", "-8, 0", "8, 0")
]


@pytest.mark.parametrize("header", [*HEADERS, *OUTSIDE])
def test_an_invalid_header_is_refused(tmp_path: Path, header: str) -> None:
    raw = header.encode("latin-1")
    (tmp_path / "weights").write_bytes(len(raw).to_bytes(8, "little") + raw + bytes(16))
    for reader in (weights_file.names, weights_file.float_values):
        with pytest.raises(BadInput, match="is not a weights file"):
            reader(tmp_path / "weights")
