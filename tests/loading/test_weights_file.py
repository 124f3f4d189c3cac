from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from deploytool.errors import BadInput
from deploytool.loading import weights_file
from tests.conftest import TINY


def test_it_reads_what_the_library_wrote(finished: Path) -> None:
    path = finished / "load" / "weights.safetensors"
    assert weights_file.definition(path) == TINY
    theirs, ours = load_file(path), weights_file.float_values(path)
    assert set(weights_file.names(path)) == set(theirs)
    assert set(ours) == {name for name, values in theirs.items() if values.is_floating_point()}
    for name, values in ours.items():
        read = np.frombuffer(values.data, values.dtype).reshape(values.shape)
        np.testing.assert_array_equal(read, theirs[name].numpy())


def test_what_numpy_has_no_type_for_is_left_out(tmp_path: Path) -> None:
    kept = {"a": torch.ones(2, 3, dtype=torch.float16), "b": torch.ones(2, dtype=torch.bfloat16), "c": torch.ones(())}
    save_file(kept, tmp_path / "weights")
    found = weights_file.float_values(tmp_path / "weights")
    assert {name: (values.shape, np.dtype(values.dtype)) for name, values in found.items()} == {
        "a": ((2, 3), np.dtype(np.float16)),
        "c": ((), np.dtype(np.float32)),
    }
    assert set(weights_file.names(tmp_path / "weights")) == set(kept)


@pytest.mark.parametrize("content", [b"", b"\x02\0\0\0\0\0\0\0{}", b"\xff" * 40])
def test_anything_else_is_refused(tmp_path: Path, content: bytes) -> None:
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
def test_a_header_of_another_form_is_refused(tmp_path: Path, header: str) -> None:
    raw = header.encode("latin-1")
    (tmp_path / "weights").write_bytes(len(raw).to_bytes(8, "little") + raw + bytes(16))
    for reader in (weights_file.names, weights_file.float_values):
        with pytest.raises(BadInput, match="is not a weights file"):
            reader(tmp_path / "weights")
