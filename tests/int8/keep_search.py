"""Campaign: the search for layers to keep against exhaustive search.

`python -m tests.int8.keep_search [REAL NOISE]`, the numbers of Q/DQ graphs and of graphs of noise.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.int8 import kept
from tests.int8.kept import Error

REAL, NOISE = 60, 440


def campaign(name: str, count: int, make: Callable[[int], tuple[list[str], Error, Error]]) -> Counter[int]:
    """Prints and returns by how many layers the found sets exceed the smallest ones."""
    off: Counter[int] = Counter()
    sizes: Counter[int] = Counter()
    shares, judged = [], []
    for seed in range(count):
        layers, error, few = make(seed)
        tolerated = kept.limit(seed, layers, error)
        found, asked = kept.searched(layers, error, few, tolerated)
        assert found.kept is not None
        assert error(found.kept) <= tolerated
        best = kept.fewest(layers, error, tolerated, len(found.kept))
        off[len(found.kept) - best] += 1
        sizes[best] += 1
        shares.append(asked / 2 ** len(layers))
        judged.append(found.evaluations)
    print(f"{name}: {count} graphs; layers beyond the optimum {dict(sorted(off.items()))}")
    print(f"  optimum {dict(sorted(sizes.items()))}; judged {min(judged)} to {max(judged)} sets,")
    print(f"  with the sensitivities {100 * max(shares):.1f} % of all sets at most", flush=True)
    return off


def main() -> None:
    real, noise = (int(each) for each in (sys.argv[1:] or (REAL, NOISE)))
    with tempfile.TemporaryDirectory() as folder:
        off = campaign("Q/DQ graphs", real, lambda seed: kept.graph(seed, Path(folder)))
    off += campaign("noise that adds up", noise, kept.noise)
    within = off[0] + off[1]
    print(f"within one layer of the optimum: {within} of {off.total()} ({100 * within / off.total():.1f} %)")


if __name__ == "__main__":
    main()
