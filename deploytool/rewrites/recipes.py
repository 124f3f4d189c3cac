"""The forms that a graph may take: recipes of rewrites by name, known without importing what carries them out."""

from __future__ import annotations

from collections.abc import Mapping

from deploytool.spec import AUTO

ORIGINAL = "original"
_FOLDED = ("fold_batch_norm", "pool_globally")
_MERGED = (*_FOLDED, "absorb_shuffle", "merge_mixed_depthwise", "group_split_pointwise", "densify_split_pointwise")
_PARTED = (*_FOLDED, "densify_split_pointwise", "merge_mixed_depthwise", "part_channels", "widen_gate")
_FOR_ENGINES = ("merge_siblings", "densify_shuffled", "compose_pointwise", "pool_by_window")
_FILLED = "fill_pooled"
_LAST = "name_batch"  # of the tensors that all the others have made

# A recipe is a sequence of rewrites; which is the fastest differs from runtime to runtime, so it is measured.
RECIPES: Mapping[str, tuple[str, ...]] = {
    ORIGINAL: (),
    "folded": (*_FOLDED, "absorb_shuffle", _FILLED, _LAST),  # none of these adds work that one could notice
    "grouped": (*_MERGED, "gather_shuffle", _FILLED, _LAST),
    "partitioned": (*_PARTED, "add_instead_of_concat", "absorb_shuffle", _FILLED, _LAST),
    "fewest-nodes": (*_MERGED, *_FOR_ENGINES, _LAST),
}
CHOICES = (AUTO, *RECIPES)
