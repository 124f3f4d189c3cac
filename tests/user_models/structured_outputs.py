"""Models that return nested structures: dicts, dataclasses, named tuples, and values that are no tensors."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Two(nn.Module):
    """Two heads, the base of the models below."""

    def __init__(self) -> None:
        super().__init__()
        self.mask, self.label = nn.Linear(16, 5), nn.Linear(16, 3)

    def heads(self, vector: Tensor) -> tuple[Tensor, Tensor]:
        return self.mask(vector), self.label(vector)


class Dictionary(Two):
    def forward(self, vector: Tensor) -> Any:
        mask, label = self.heads(vector)
        return {"mask": mask, "label": label}


class Past(Two):
    """Returns logits, and keys and values per layer, like a language model."""

    def forward(self, vector: Tensor) -> Any:
        mask, label = self.heads(vector)
        layers = tuple({"key": mask + number, "value": label * number} for number in (1, 2))
        return {"logits": label, "loss": None, "past": layers}


@dataclass
class Found:
    boxes: Tensor
    scores: Tensor | None = None
    extra: Any = None


class Dataclass(Two):
    def forward(self, vector: Tensor) -> Any:
        mask, label = self.heads(vector)
        return Found(boxes=mask, scores=label)


class Pair(NamedTuple):
    mask: Tensor
    label: Tensor


class Named(Two):
    def forward(self, vector: Tensor) -> Any:
        return Pair(*self.heads(vector))


Other = namedtuple("Other", ["first", "second"])  # an untyped named tuple


class OldNamed(Two):
    def forward(self, vector: Tensor) -> Any:
        return [Other(*self.heads(vector))]


@dataclass
class ModelOutput(OrderedDict[str, Any]):
    """Like that of Hugging Face: a dataclass that is also a dict of its values except None."""

    logits: Any = None
    hidden: Any = None
    attentions: Any = None

    def __post_init__(self) -> None:
        for name in ("logits", "hidden", "attentions"):
            if getattr(self, name) is not None:
                self[name] = getattr(self, name)


class HuggingFace(Two):
    def forward(self, vector: Tensor) -> Any:
        mask, label = self.heads(vector)
        return ModelOutput(logits=label, hidden=(mask, mask.relu()))


class Space(Two):
    def forward(self, vector: Tensor) -> Any:
        mask, label = self.heads(vector)
        return SimpleNamespace(mask=mask, inner=SimpleNamespace(label=label))


class Holes(Two):
    def forward(self, vector: Tensor) -> Any:
        mask, label = self.heads(vector)
        return mask, None, [label]


class Mixed(Two):
    """Returns values that are no tensors, in addition to tensors."""

    def forward(self, vector: Tensor) -> Any:
        mask, label = self.heads(vector)
        return {"mask": mask, "label": label, "size": 5, "names": ["a", "b"], "done": True}


class OddNames(Two):
    """Output names with invalid characters, equal names after cleaning, and the name of an input."""

    def forward(self, vector: Tensor) -> Any:
        mask, label = self.heads(vector)
        return {"my mask": mask, "my/mask": label, "vector": mask + 1, 0: label + 1}


class SameTwice(Two):
    def forward(self, vector: Tensor) -> Any:
        mask, _ = self.heads(vector)
        return {"one": mask, "two": mask, "three": vector}


class Scalar(Two):
    def forward(self, vector: Tensor) -> Any:
        mask, label = self.heads(vector)
        return {"mask": mask, "loss": label.sum(), "anchors": torch.ones(7, 4)}


class Cache:
    """A cache of keys and values, as transformers returns it."""

    def __init__(self, keys: Tensor) -> None:
        self.keys = keys

    def get_seq_length(self) -> int:
        return 1


class Decoder(Two):
    """Returns a cache beside its output."""

    def forward(self, vector: Tensor) -> Any:
        mask, label = self.heads(vector)
        return {"mask": mask, "past_key_values": Cache(label)}


class Changing(Two):
    """Returns the second output only for batches of more than one case."""

    def forward(self, vector: Tensor) -> Any:
        mask, label = self.heads(vector)
        return {"mask": mask, "label": label if len(vector) > 1 else None}


class Endless(Two):
    def forward(self, vector: Tensor) -> Any:
        mask, _ = self.heads(vector)
        outputs: list[Any] = [mask]
        outputs.append(outputs)
        return outputs
