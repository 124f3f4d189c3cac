"""The forms of a graph quantised to 8 bits: which types and zero points a target takes."""

from __future__ import annotations

import platform

from deploytool.host import machine
from deploytool.spec import StrEnum


class Form(StrEnum):
    """The types of activations and weights in a graph quantised to 8 bits.

    `TENSORRT`: both signed and symmetric, no INT32 bias, the other nodes in FP16, strongly typed.
    `U8S8`: unsigned activations with a zero point, signed weights; exact on x86 with VNNI only. Without it ONNX Runtime
    adds two products in 16 bits, which saturate.
    `U8S7`: as `U8S8` with weights from -64 to 64, which cannot saturate: for x86 without VNNI.
    `S8S8`: signed activations with a zero point, signed weights: for Arm. On x86 ONNX Runtime computes it as `U8S8`,
    so it saturates there as well.
    `E4M3`: both in FP8, without zero points, one scale for each tensor, the other nodes in FP16, strongly typed: for
    TensorRT and TensorRT-RTX.
    """

    TENSORRT = "tensorrt"
    U8S8 = "u8s8"
    U8S7 = "u8s7"
    S8S8 = "s8s8"
    E4M3 = "e4m3"

    @property
    def for_engines(self) -> bool:
        """Whether engines are built from a graph of this form; its ranges are symmetric."""
        return self in (Form.TENSORRT, Form.E4M3)


def cpu_form() -> Form:
    """The form that the integer kernels of this machine's CPU take without saturation."""
    if platform.machine().lower() in ("aarch64", "arm64"):
        return Form.S8S8
    return Form.U8S7 if machine.saturates_int8() else Form.U8S8
