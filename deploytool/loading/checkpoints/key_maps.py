"""Maps weight names of a publisher to those of the zoo, block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from deploytool.spec import Option, Preprocessing

Options = Mapping[str, Option]
KeyMap = Mapping[str, str]  # module path in the zoo: module path of the publisher
INFIXES = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")  # torch wrappers add them anywhere


def _identity(options: Options) -> KeyMap:
    return {}


@dataclass(frozen=True)
class Family:
    """The checkpoint format of one publisher for one model family.

    key_pattern: a regular expression that matches the start of some of its keys, and of no other publisher's.
    names: the key map for a definition with these options; module paths that are not listed are the same.
    options: the options of the definition that the weights require.
    preprocessing: the preprocessing the weights require; None for that of the model.
    """

    key_pattern: str
    names: Callable[[Options], KeyMap] = _identity
    options: Options = field(default_factory=dict)
    preprocessing: Preprocessing | None = None


def block_paths(template: str, lengths: Sequence[int], first: tuple[int, int] = (0, 0)) -> list[str]:
    """The module paths of all blocks, stage by stage; stages and blocks are counted from `first`."""
    first_stage, first_block = first
    return [
        template.format(first_stage + stage, first_block + block)
        for stage, length in enumerate(lengths)
        for block in range(length)
    ]


SHUFFLENET_UNITS = block_paths("stage{}.{}", (4, 8, 4), (2, 0))
MOBILENET_BLOCKS = block_paths("blocks.{}.{}", (1, 2, 2, 6, 2))


def map_blocks(ours: Sequence[str], theirs: Sequence[str], parts: KeyMap) -> dict[str, str]:
    """The key map of all submodules of all blocks; `parts` maps the submodules of one block."""
    return {
        f"{our_block}.{our_part}": f"{their_block}.{their_part}"
        for our_block, their_block in zip(ours, theirs, strict=True)
        for our_part, their_part in parts.items()
    }


def source_key(key: str, names: KeyMap) -> str:
    """The publisher's name for a zoo key: maps the longest listed module path and keeps the rest (`0.weight`)."""
    path, dot, rest = key.rpartition(".")
    while dot and path not in names:
        path, dot, _ = path.rpartition(".")
        rest = key[len(path) + 1 :]
    return without_wrapper_infixes(f"{names[path]}.{rest}" if dot else key)


def without_wrapper_infixes(key: str) -> str:
    """Removes the parts that torch.compile, FSDP and activation checkpointing add to names."""
    for infix in INFIXES:
        key = key.replace(infix, "")
    return key


def quoted(key: object) -> str:
    """A key for a message: escaped, on one line, at most 100 characters."""
    text = repr(key)
    return text if len(text) <= 100 else f"{text[:99]}…"


def shape_text(shape: Iterable[int]) -> str:
    """A shape for a message: `8 × 3 × 3 × 3`."""
    return " × ".join(map(str, shape)) or "a single number"
