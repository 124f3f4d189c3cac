"""Finds the TensorRT releases that the system's loader can load, in a child process, because it keeps what it loads."""

from __future__ import annotations

import ctypes
import os

_RELEASES = range(8, 20)


def main() -> None:
    """Writes the major release of each TensorRT library that loads to stdout, one a line."""
    for major in _RELEASES:
        try:
            ctypes.CDLL(f"libnvinfer.so.{major}")
        except OSError:
            continue
        os.write(1, f"{major}\n".encode())
