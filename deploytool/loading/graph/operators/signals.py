"""Fourier transforms and their windows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from onnx import TensorProto
from torch.nn import functional

from deploytool.loading.graph import element_types
from deploytool.loading.graph.op import Op, Operator


def _complex(x: torch.Tensor) -> torch.Tensor:
    """Numbers whose last axis is the real part, or the real and the imaginary part."""
    return x[..., 0] if x.shape[-1] == 1 else torch.complex(x[..., 0].contiguous(), x[..., 1].contiguous())


def _parts(x: torch.Tensor) -> torch.Tensor:
    return torch.stack([x.real, x.imag], -1)


def _dft(op: Op, x: torch.Tensor, length: torch.Tensor | None = None, axis: torch.Tensor | None = None) -> torch.Tensor:
    """Before opset 20 the axis is an attribute."""
    dim = (op.integer("axis", 1) if op.version < 20 else -2) if axis is None else int(axis)
    dim, inverse, half = dim % x.dim(), op.flag("inverse"), op.flag("onesided")
    default = 2 * (x.shape[dim] - 1) if inverse and half else x.shape[dim]
    count, numbers = default if length is None else int(length), _complex(x)
    if inverse and half:
        signal: torch.Tensor = torch.fft.irfft(numbers, count, dim)
        return signal.unsqueeze(-1)
    if inverse:
        return _parts(torch.fft.ifft(numbers, count, dim))
    result = _parts(torch.fft.fft(numbers, count, dim))
    return result.narrow(dim, 0, count // 2 + 1) if half else result


def _stft(
    op: Op,
    x: torch.Tensor,
    step: torch.Tensor,
    window: torch.Tensor | None = None,
    length: torch.Tensor | None = None,
) -> torch.Tensor:
    signal, half = _complex(x), op.flag("onesided", True)
    size = int(length) if length is not None else window.shape[0] if window is not None else x.shape[1]
    frames = signal.unfold(1, size, int(step))
    if window is not None:
        frames = frames * functional.pad(window, (0, size - window.shape[0]))
    result = torch.fft.fft(frames, size, -1)
    return _parts(result[..., : size // 2 + 1] if half else result)


def _window(weights: Sequence[float]) -> Operator:
    """A sum of cosines with these weights and alternating signs."""

    def apply(op: Op, size: torch.Tensor) -> torch.Tensor:
        dtype = element_types.computed(op.integer("output_datatype", TensorProto.FLOAT)) or torch.float32
        count = int(size)
        period = count if op.flag("periodic", True) else count - 1
        angles = torch.arange(count, dtype=torch.float64) * (2 * math.pi / period)
        terms = [(-1) ** number * weight * torch.cos(angles * number) for number, weight in enumerate(weights)]
        return torch.stack(terms).sum(0).to(dtype)

    return apply


OPERATORS: Mapping[str, Operator] = {
    "BlackmanWindow": _window((0.42, 0.5, 0.08)),
    "DFT": _dft,
    "HammingWindow": _window((25 / 46, 21 / 46)),
    "HannWindow": _window((0.5, 0.5)),
    "STFT": _stft,
}
