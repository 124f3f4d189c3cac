"""Finds the state dicts in whatever a trainer saved, and the prefixes that wrappers put before their names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch

from deploytool.loading.checkpoints.key_maps import INFIXES, quoted, without_wrapper_infixes

COUNTERS = ("n_averaged",)  # what AveragedModel keeps beside its module
_AVERAGED = re.compile(r"(^|_|\.)(ema|averaged|avg|swa|teacher)(_|\.|$)", re.IGNORECASE)  # before the last weights
_USUAL = ("state_dict", "model_state_dict", "model", "net", "network", "module", "params", "weights")
_DEPTH = 4  # dictionaries in dictionaries
_PREFIXES = 64


@dataclass(frozen=True)
class StateDict:
    """Tensors by name, with what stands among them, and where in a checkpoint they were.

    path: the keys that lead to them. left_out: the prefix that was taken off, or said of wrappers in between.
    added: a prefix that the definition has and the file has not. beside: names that do not have the prefix.
    """

    path: tuple[str, ...]
    entries: Mapping[str, object]
    left_out: tuple[str, ...] = ()
    added: str = ""
    beside: tuple[str, ...] = ()
    others: tuple[str, ...] = ()  # state dicts that would fit as well

    @property
    def rank(self) -> tuple[bool, int]:
        """Averaged weights come first, then what is called as usual."""
        words = (*self.path, *self.left_out)
        usual = [_USUAL.index(word) for word in self.path if word in _USUAL]
        return not any(_AVERAGED.search(word) for word in words), min(usual, default=len(_USUAL))

    @property
    def place(self) -> str:
        """Where it was, for a message; empty if it was the file itself, as it is."""
        words = [f"those under {quoted('.'.join(self.path))}"] if self.path else []
        words += [f"without the prefix {quoted(''.join(self.left_out))}"] if self.left_out else []
        words += [f"with the prefix {quoted(self.added)}"] if self.added else []
        return " ".join(words)

    def said(self) -> str:
        """What was unwrapped and what was left, in one line."""
        parts = [self.place] if self.place else []
        if self.others:
            parts.append(f"not {', '.join(self.others)}")
        if self.beside:
            parts.append(f"{len(self.beside)} others left out, as {quoted(self.beside[0])}")
        return "; ".join(parts)


def state_dicts(held: object) -> list[StateDict]:
    """Every mapping in `held` that has tensors, averaged weights first, then by what they are called."""
    return sorted(_walk(held, ()), key=lambda each: (each.rank, len(each.path)))


def _walk(held: object, path: tuple[str, ...]) -> Iterator[StateDict]:
    if isinstance(held, torch.nn.Module):
        held = held.state_dict()
    if not isinstance(held, Mapping) or len(path) > _DEPTH:
        return
    if any(isinstance(value, torch.Tensor) and isinstance(key, str) for key, value in held.items()):
        yield _without_infixes(StateDict(path, {key: value for key, value in held.items() if isinstance(key, str)}))
    for key, value in held.items():
        if isinstance(key, str) and "optim" not in key:
            yield from _walk(value, (*path, key))


def _without_infixes(found: StateDict) -> StateDict:
    present = tuple(infix for infix in INFIXES if any(infix in key for key in found.entries))
    entries = {without_wrapper_infixes(key): value for key, value in found.entries.items()}
    if not present or len(entries) < len(found.entries):
        return found
    return StateDict(found.path, entries, present)


def variants(found: StateDict, wanted: Mapping[str, object] | None) -> Iterator[StateDict]:
    """The same with one prefix taken off, or put before all names: as it is, then those that most names have.

    wanted: the names that a definition has, where they are known; prefixes that too few names have are left out.
    """
    least = min(len(found.entries), len(wanted)) // 2 if wanted else 2
    common = _prefixes(found.entries)
    likely = [prefix for prefix, count in common.most_common(_PREFIXES) if count >= max(1, least)]
    missing = [prefix for prefix, count in _prefixes(wanted or {}).items() if wanted and count == len(wanted)]
    for prefix in ("", *sorted(likely, key=lambda prefix: (_AVERAGED.search(prefix) is None, len(prefix)))):
        shorter = strip_prefix(found, prefix) if prefix else found
        yield shorter
        for added in missing:
            entries = {added + key: value for key, value in shorter.entries.items()}
            yield replace(shorter, entries=entries, added=added)


def strip_prefix(found: StateDict, prefix: str) -> StateDict:
    """The entries that have a prefix, without it."""
    entries = {key[len(prefix) :]: value for key, value in found.entries.items() if key.startswith(prefix)}
    beside = tuple(key for key in found.entries if not key.startswith(prefix) and key not in COUNTERS)
    return StateDict(found.path, entries, (*found.left_out, prefix), beside=beside)


def _prefixes(keys: Mapping[str, object]) -> Counter[str]:
    """How many names begin with each dotted prefix of up to four words."""
    counted: Counter[str] = Counter()
    for key in keys:
        words = key.split(".")[:-1][:_DEPTH]
        counted.update(".".join(words[: end + 1]) + "." for end in range(len(words)))
    return counted
