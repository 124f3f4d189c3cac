"""How a source's names meet ours: a table of places, block by block, in the order in which both list them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from deploytool.spec import Option, Preprocessing

Options = Mapping[str, Option]
KeyMap = Mapping[str, str]  # our place: theirs
INFIXES = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")  # of torch's wrappers, anywhere


def _ours(options: Options) -> KeyMap:
    return {}


@dataclass(frozen=True)
class Family:
    """How one source writes the checkpoints of one family.

    sign: a pattern that some of its keys begin with, and no key of another source.
    names: our places and theirs, for a definition with these options; a place that is not listed is called the same.
    options: what the weights need of our definition.
    preprocessing: what they need of a picture; without one, what the model says.
    """

    sign: str
    names: Callable[[Options], KeyMap] = _ours
    options: Options = field(default_factory=dict)
    preprocessing: Preprocessing | None = None


def block_paths(template: str, lengths: Sequence[int], first: tuple[int, int] = (0, 0)) -> list[str]:
    """The places of all blocks, stage by stage, when stages and blocks are counted from `first`."""
    stage, block = first
    return [template.format(stage + s, block + b) for s, length in enumerate(lengths) for b in range(length)]


SHUFFLENET_UNITS = block_paths("stage{}.{}", (4, 8, 4), (2, 0))
MOBILENET_BLOCKS = block_paths("blocks.{}.{}", (1, 2, 2, 6, 2))


def map_blocks(ours: Sequence[str], theirs: Sequence[str], parts: KeyMap) -> dict[str, str]:
    """The places of every part of every block: `parts` tells our part from theirs."""
    return {
        f"{our}.{part}": f"{their}.{their_part}"
        for our, their in zip(ours, theirs, strict=True)
        for part, their_part in parts.items()
    }


def source_key(key: str, names: KeyMap) -> str:
    """What they call our `key`: the place is looked up, what stands behind it (`weight`, `0.weight`) stays."""
    place, dot, rest = key.rpartition(".")
    while dot and place not in names:
        place, dot, _ = place.rpartition(".")
        rest = key[len(place) + 1 :]
    return without_wrapper_infixes(f"{names[place]}.{rest}" if dot else key)


def without_wrapper_infixes(key: str) -> str:
    """A name without what torch's own wrappers put into it."""
    for infix in INFIXES:
        key = key.replace(infix, "")
    return key


def quoted(key: object) -> str:
    """A key as a message shows it: on one line and not too long, whatever a file may call its tensors."""
    text = repr(key)
    return text if len(text) <= 100 else f"{text[:99]}…"


def shape_text(shape: Iterable[int]) -> str:
    """A shape as people write it; a single number has none."""
    return " × ".join(map(str, shape)) or "a single number"
