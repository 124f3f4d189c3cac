"""A model whose forward takes a list, a dict, a mask, a flag and a keyword-only tensor."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Arguments(nn.Module):
    """Answers with the list, or with what the flag adds."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 5)

    def forward(
        self, parts: list[Tensor], more: dict[str, Tensor], wide: bool = False, *, mask: Tensor | None = None
    ) -> Tensor:
        assert isinstance(parts, list)
        scores: Tensor = self.layer(torch.cat(parts, dim=1))
        if wide:
            scores = scores + more["shift"].mean(1, keepdim=True)
        assert mask is not None
        weights = mask[..., None].float()
        return scores + (weights * weights.cumsum(1)).sum((1, 2), keepdim=False)[:, None] / mask.shape[1] ** 2
