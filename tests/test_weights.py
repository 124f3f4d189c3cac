from __future__ import annotations

from pathlib import Path

import pytest

from deploytool import weights
from deploytool.backends import eager
from deploytool.errors import BadInput
from tests.conftest import TINY


def test_it_reads_what_the_library_reads(finished: Path) -> None:
    path = finished / "instantiate" / "weights.safetensors"
    assert weights.definition(path) == eager.definition(path) == TINY


@pytest.mark.parametrize("content", [b"", b"\x02\0\0\0\0\0\0\0{}", b"\xff" * 40])
def test_anything_else_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "weights").write_bytes(content)
    with pytest.raises(BadInput, match="names no model"):
        weights.definition(tmp_path / "weights")
