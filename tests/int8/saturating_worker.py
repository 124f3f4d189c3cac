"""The real worker with ONNX Runtime as it is by default: on x86 without VNNI, sums of INT8 products saturate."""

from __future__ import annotations

import sys

from deploytool.backends import onnxruntime
from deploytool.device import worker

onnxruntime.forbid_saturation = lambda options: None
worker.main(sys.argv[1])
