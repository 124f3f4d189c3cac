"""Recipes: named sequences of rewrites, listed without importing the rewrites."""

from __future__ import annotations

from collections.abc import Mapping

from deploytool.spec import AUTO

ORIGINAL = "original"
_FOLDED = ("fold_batch_norm", "pool_globally")
_MERGED = (*_FOLDED, "absorb_shuffle", "merge_mixed_depthwise", "group_split_pointwise", "densify_split_pointwise")
_SHUFFLED = ("absorb_shuffle", "delay_shuffle")
_PARTITIONED = (*_FOLDED, "densify_split_pointwise", "merge_mixed_depthwise", "part_channels", "widen_gate")
_FOR_ENGINES = ("merge_siblings", "densify_shuffled", "compose_pointwise", "pool_by_window")
_FILLED = "fill_pooled"
_LAST = "name_batch"  # it annotates the tensors that the other rewrites produce

# The fastest recipe differs between runtimes, so the rewrite stage measures them.
RECIPES: Mapping[str, tuple[str, ...]] = {
    ORIGINAL: (),
    "folded": (*_FOLDED, *_SHUFFLED, _FILLED, _LAST),  # none of these adds measurable work
    "grouped": (*_MERGED, "delay_shuffle", "gather_shuffle", _FILLED, _LAST),
    "partitioned": (*_PARTITIONED, "add_instead_of_concat", *_SHUFFLED, _FILLED, _LAST),
    "fewest-nodes": (*_MERGED, *_FOR_ENGINES, _LAST),
}
CHOICES = (AUTO, *RECIPES)
