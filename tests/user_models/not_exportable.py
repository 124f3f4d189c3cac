"""Models that one or both exporters of torch.onnx reject, each for a different reason."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Naming(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.name = nn.Linear(16, 9)

    def named(self, vector: Tensor) -> Tensor:
        return self.name(vector)  # type: ignore[no-any-return]  # a Module call


class Autocast(Naming):
    def forward(self, vector: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.named(vector).float()


class Bfloat16(Naming):
    """Computes in bfloat16 without autocast."""

    def forward(self, vector: Tensor) -> Tensor:
        coarse = nn.functional.linear(vector.bfloat16(), self.name.weight.bfloat16())
        return self.named(vector) + coarse.float()


class Bfloat16Weight(Naming):
    """Has a weight in bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.ones(16, dtype=torch.bfloat16))

    def forward(self, vector: Tensor) -> Tensor:
        return self.named((vector.bfloat16() * self.shift).float())


class Sparse(Naming):
    def forward(self, vector: Tensor) -> Tensor:
        product: Tensor = torch.sparse.mm(vector.to_sparse(), self.name.weight.T)
        return self.named(vector) + product


class Eigenvalues(Naming):
    """Uses an operator that ONNX does not support."""

    def forward(self, vector: Tensor) -> Tensor:
        values: Tensor = torch.linalg.eigvalsh(self.named(vector).reshape(-1, 3, 3))
        return values


@torch.library.custom_op("deploytool_test::doubled", mutates_args=())
def doubled(vector: Tensor) -> Tensor:
    return vector * 2


@doubled.register_fake
def _(vector: Tensor) -> Tensor:
    return torch.empty_like(vector)


class Custom(Naming):
    def forward(self, vector: Tensor) -> Tensor:
        twice: Tensor = doubled(vector)
        return self.named(twice)


class VarPositional(Naming):
    def forward(self, *inputs: Tensor, **options: bool) -> Tensor:
        return self.named(*inputs)


class PositionalAndVarPositional(Naming):
    def forward(self, vector: Tensor, *more: Tensor) -> Tensor:
        return self.named(vector + more[0])


class Spectrum(Naming):
    """Accepted only by the dynamo exporter."""

    def forward(self, vector: Tensor) -> Tensor:
        magnitude: Tensor = torch.fft.rfft(vector).abs()
        return self.named(vector) + magnitude


class Guarded(Naming):
    """Accepted only by the torchscript exporter."""

    def forward(self, vector: Tensor) -> Tensor:
        if vector.abs().max() > 1000:
            raise ValueError("too loud")
        return self.named(vector)


class Empty(Naming):
    """Returns no elements."""

    def forward(self, vector: Tensor) -> Tensor:
        return self.named(vector)[:, :0]
