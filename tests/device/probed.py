"""Probes ONNX Runtime on the CPU with a bundle and prints the outcome: `probed.py BUNDLE [AVAILABLE_BYTES]`.

The output is JSON: the reason or status, whether the bundle is at fault, and the peak memory of the child in MiB.
AVAILABLE_BYTES stands for the memory that the machine has available.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

from deploytool.bundle.manifest import read_manifest
from deploytool.device import probe
from tests.device.ort_cpu import ort_cpu

_WORKER_WITH_LITTLE_MEMORY = """
import sys
from deploytool.device import worker
from deploytool.host import memory
assert memory.available_bytes
memory.available_bytes = lambda: {available}
worker.main(sys.argv[1])
"""


def main(folder: Path, available: str) -> None:
    candidate = ort_cpu(folder)
    worker = probe.WORKER
    if available:
        worker = (sys.executable, "-c", _WORKER_WITH_LITTLE_MEMORY.format(available=int(available)))
    result = probe.probe(candidate, folder, read_manifest(folder), 0.0, worker)
    peak_mib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10
    sys.stdout.write(json.dumps([result.reason or result.status.value, result.is_bundles_fault, peak_mib]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
