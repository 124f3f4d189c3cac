"""Finds the state dicts inside a checkpoint, and removes the prefixes that wrappers add to their keys."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch

from deploytool.loading.checkpoints.key_maps import INFIXES, quoted, without_wrapper_infixes

COUNTERS = ("n_averaged",)  # of torch's AveragedModel, next to its module
_AVERAGED = re.compile(r"(^|_|\.)(ema|averaged|avg|swa|teacher)(_|\.|$)", re.IGNORECASE)
_COMMON_KEYS = ("state_dict", "model_state_dict", "model", "net", "network", "module", "params", "weights")
_MAX_DEPTH = 4  # of nested dictionaries, and words of a prefix
_MAX_PREFIXES = 64


@dataclass(frozen=True)
class StateDict:
    """A state dict (which may contain values that are no tensors) and its location in a checkpoint.

    path: the keys of the dictionaries around it. removed: the removed prefix or wrapper infixes. added: a prefix that
    the definition has and the file lacks. without_prefix: keys that do not have the prefix. others: the locations of
    different state dicts that fit as well.
    """

    path: tuple[str, ...]
    entries: Mapping[str, object]
    removed: tuple[str, ...] = ()
    added: str = ""
    without_prefix: tuple[str, ...] = ()
    others: tuple[str, ...] = ()

    @property
    def rank(self) -> tuple[bool, int]:
        """The sort key: averaged weights first, then those under the most common keys."""
        words = (*self.path, *self.removed)
        common = [_COMMON_KEYS.index(word) for word in self.path if word in _COMMON_KEYS]
        return not any(_AVERAGED.search(word) for word in words), min(common, default=len(_COMMON_KEYS))

    @property
    def place(self) -> str:
        """The location for a message; empty for a bare state dict."""
        words = [f"those under {quoted('.'.join(self.path))}"] if self.path else []
        words += [f"without the prefix {quoted(''.join(self.removed))}"] if self.removed else []
        words += [f"with the prefix {quoted(self.added)}"] if self.added else []
        return " ".join(words)

    def describe(self) -> str:
        """The location, and the state dicts and keys that were left out, in one line."""
        parts = [self.place] if self.place else []
        if self.others:
            parts.append(f"not {', '.join(self.others)}")
        if self.without_prefix:
            parts.append(f"{len(self.without_prefix)} others left out, for example {quoted(self.without_prefix[0])}")
        return "; ".join(parts)


def state_dicts(data: object) -> list[StateDict]:
    """All mappings with tensors in the loaded object, sorted by rank and depth."""
    return sorted(_walk(data, ()), key=lambda source: (source.rank, len(source.path)))


def _walk(data: object, path: tuple[str, ...]) -> Iterator[StateDict]:
    if isinstance(data, torch.nn.Module):
        data = data.state_dict()
    if not isinstance(data, Mapping) or len(path) > _MAX_DEPTH:
        return
    if any(isinstance(value, torch.Tensor) and isinstance(key, str) for key, value in data.items()):
        yield _without_infixes(StateDict(path, {key: value for key, value in data.items() if isinstance(key, str)}))
    for key, value in data.items():
        if isinstance(key, str) and "optim" not in key:
            yield from _walk(value, (*path, key))


def _without_infixes(source: StateDict) -> StateDict:
    """Removes wrapper infixes from all keys, unless two keys would become equal."""
    infixes = tuple(infix for infix in INFIXES if any(infix in key for key in source.entries))
    entries = {without_wrapper_infixes(key): value for key, value in source.entries.items()}
    if not infixes or len(entries) < len(source.entries):
        return source
    return StateDict(source.path, entries, infixes)


def variants(source: StateDict, expected: Mapping[str, object] | None) -> Iterator[StateDict]:
    """The unchanged state dict, then variants with a frequent prefix removed or the definition's prefix added.

    expected: the keys of the definition, if known; rare prefixes are not tried.
    """
    min_count = min(len(source.entries), len(expected)) // 2 if expected else 2
    counts = _prefix_counts(source.entries)
    frequent = [prefix for prefix, count in counts.most_common(_MAX_PREFIXES) if count >= max(1, min_count)]
    prefix_counts = _prefix_counts(expected or {})
    missing = [prefix for prefix, count in prefix_counts.items() if expected and count == len(expected)]
    for prefix in ("", *sorted(frequent, key=lambda prefix: (_AVERAGED.search(prefix) is None, len(prefix)))):
        stripped = strip_prefix(source, prefix) if prefix else source
        yield stripped
        for added in missing:
            entries = {added + key: value for key, value in stripped.entries.items()}
            yield replace(stripped, entries=entries, added=added)


def strip_prefix(source: StateDict, prefix: str) -> StateDict:
    """The entries with a prefix, which is removed from their keys."""
    entries = {key[len(prefix) :]: value for key, value in source.entries.items() if key.startswith(prefix)}
    without_prefix = tuple(key for key in source.entries if not key.startswith(prefix) and key not in COUNTERS)
    return StateDict(source.path, entries, (*source.removed, prefix), without_prefix=without_prefix)


def _prefix_counts(keys: Mapping[str, object]) -> Counter[str]:
    """The number of keys with each dotted prefix of up to four words."""
    counts: Counter[str] = Counter()
    for key in keys:
        words = key.split(".")[:-1][:_MAX_DEPTH]
        counts.update(".".join(words[: end + 1]) + "." for end in range(len(words)))
    return counts
