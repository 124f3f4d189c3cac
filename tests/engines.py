"""Compares engines that TensorRT-RTX built from one graph."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

# each build of one graph numbers tensors, and orders the constants of shapes, in another way
_BY_BUILD = re.compile(rb"__mye\d+|\boffset=\d+")


def content(engine: Path) -> Sequence[bytes]:
    """What two builds of one graph have in common: everything but the numbers and the order of its parts."""
    return sorted(_BY_BUILD.sub(b"", engine.read_bytes()).split())
