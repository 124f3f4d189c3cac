"""Runs a graph in this process as a device does, and prints the MiB that it took: run_session.py ARGUMENTS.

The arguments are the file, its size in bytes and SHA-256, the MiB its manifest states, and the input's shape and dtype.
"""

from __future__ import annotations

import sys

import numpy as np

from deploytool.device import bounds, session
from deploytool.device.candidates import Candidate, Tier
from deploytool.host import memory
from deploytool.spec import Precision


def main(path: str, size: str, sha256: str, stated_mib: str, shape: str, dtype: str) -> None:
    candidate = Candidate(
        next(iter(Tier)),
        path,
        int(size),
        sha256,
        backend="onnxruntime",
        device="cpu",
        flavour="",
        precision=Precision.FP32,
        io=Precision.FP32,
        memory_mib=int(stated_mib),
    )
    inputs = np.ones([int(dim) for dim in shape.split("x")], dtype)
    with bounds.bounded(candidate), session.open_candidate(candidate) as run:
        before = memory.private_bytes() or 0
        run(x=inputs)
        run(x=inputs[:1])
        sys.stdout.write(f"{((memory.private_bytes() or 0) - before) >> 20}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
