"""The forms of an INT8 graph: which types and zero points a target takes."""

from __future__ import annotations

from deploytool.spec import StrEnum


class Form(StrEnum):
    """The types of activations and weights in an INT8 graph.

    `TENSORRT`: both signed and symmetric, no INT32 bias, the other nodes in FP16, strongly typed.
    `U8S8`: unsigned activations with a zero point, signed weights; exact on x86 with VNNI only. Without it ONNX Runtime
    adds two products in 16 bits, which saturate.
    `U8S7`: as `U8S8` with weights from -64 to 64, which cannot saturate: for x86 without VNNI.
    `S8S8`: signed activations with a zero point, signed weights: for Arm. On x86 ONNX Runtime computes it as `U8S8`,
    so it saturates there as well.
    """

    TENSORRT = "tensorrt"
    U8S8 = "u8s8"
    U8S7 = "u8s7"
    S8S8 = "s8s8"
