"""The sigmoid as ONNX Runtime computes it on a CPU: one half and a quotient of polynomials.

Near zero the quotient is nearly minus one half, so that the error is absolute: up to 1.4e-7, however small the sigmoid
itself is. The error of PyTorch's sigmoid is relative. Source of the coefficients: MLAS (`MlasComputeLogistic`), which
has them from Eigen.
"""

from __future__ import annotations

import torch

_LIMIT = 18.0  # beyond which the quotient is constant
_NUMERATOR = (
    4.37031012579801e-11,
    1.15627324459942e-07,
    6.08574864600143e-05,
    8.51377133304701e-03,
    2.48287947061529e-01,
)
_DENOMINATOR = (
    *(6.10247389755681e-13, 5.76102136993427e-09, 6.29106785017040e-06),
    *(1.70198817374094e-03, 1.16817656904453e-01, 9.93151921023180e-01),
)  # coefficients of the even powers, the highest first; the numerator is multiplied by x


def sigmoid(x: torch.Tensor) -> torch.Tensor | None:
    """The sigmoid of an FP32 tensor on the CPU, elementwise; None for any other tensor."""
    if x.dtype != torch.float32 or x.device.type != "cpu":
        return None
    limited = x.clamp(-_LIMIT, _LIMIT)
    square = limited * limited
    numerator, denominator = (_polynomial(square, coefficients) for coefficients in (_NUMERATOR, _DENOMINATOR))
    return (numerator * limited / denominator + 0.5).clamp(0, 1)


def _polynomial(x: torch.Tensor, coefficients: tuple[float, ...]) -> torch.Tensor:
    """Horner's scheme, rounded after each step."""
    total = torch.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        total = total * x + coefficient
    return total
