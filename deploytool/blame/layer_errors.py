"""A heat strip: every tensor of one graph in order, its module, its error, and the noise floor there.

A tensor is held against what is known, the tensors of the source model or of the graph before:

1. by name, if there is one of that name and shape: the FP16 converter keeps all names, onnxsim most of them;
2. by value, against the first that agrees within the noise and that no other tensor was found to be: so a convolution
   with a batch norm folded into it is held against the answer of the batch norm;
3. else nothing is known of it, and it is right if anything made of it is: PyTorch has no tensor for the sigmoid
   inside a SiLU.

The noise of what is known was measured in the source model; what nothing is known of has the noise of its sources.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from deploytool.blame.ort_trace import TracedTensor
from deploytool.blame.reference_tensor import ReferenceTensor, relative_error
from deploytool.exporters.name_scopes import module_path
from deploytool.results.blame import Layer

Matches = Mapping[str, ReferenceTensor]


@dataclass(frozen=True)
class GraphErrors:
    """The layers of a graph in topological order, and as what its tensors are known to the graph after.

    `strayed` is the first layer that leaves the noise, `before` the worst of those it is made from; `missing` is the
    module of a tensor that it is made from in the graph before, and that this graph has lost. `matched` is what the
    tensors were found to be, as far as that is known, and `wrong` are those that leave the noise.
    """

    layers: tuple[Layer, ...]
    known: tuple[ReferenceTensor, ...]
    strayed: Layer | None
    before: Layer | None
    missing: str | None
    matched: Matches
    wrong: frozenset[str]


def compare_layers(
    points: Sequence[TracedTensor], known: Sequence[ReferenceTensor], modules: Collection[str]
) -> GraphErrors:
    """Holds every point of a graph against what is known."""
    half = any(point.values.dtype == np.float16 for point in points)
    matches = _match(points, known, half)
    wrong = _wrong(points, matches, half)
    matches |= _nearest(wrong, matches, known, half)
    become = _become(points, matches, known, modules)
    layers: dict[str, Layer] = {}
    for point in points:
        mine, match = become[point.tensor], matches.get(point.tensor)
        apart = relative_error(point.values, match.values) if match else None
        layers[point.tensor] = Layer(mine.module, point.tensor, point.node, point.op, apart, mine.floor(half=half))
    first = wrong[0] if wrong else None
    made_from = [layers[source] for source in first.sources if source in layers] if first else []
    return GraphErrors(
        layers=tuple(layers.values()),
        known=tuple(become[point.tensor] for point in points),
        strayed=layers[first.tensor] if first else None,
        before=max(made_from, key=lambda layer: layer.error or 0.0, default=None),
        missing=_missing(matches.get(first.tensor), points, known) if first else None,
        matched=matches,
        wrong=frozenset(point.tensor for point in wrong),
    )


def _match(points: Sequence[TracedTensor], known: Sequence[ReferenceTensor], half: bool) -> dict[str, ReferenceTensor]:
    """What each point is: by its name, or else by its value."""
    named = {each.tensor: each for each in known if each.tensor}
    found = {
        point.tensor: named[point.tensor]
        for point in points
        if point.tensor in named and named[point.tensor].values.shape == point.values.shape
    }
    left = defaultdict(list)
    for each in known:
        if each.tensor not in found:
            left[each.values.shape].append(each)
    for point in points:
        if point.tensor not in found:
            alike = left[point.values.shape]
            near = (at for at, each in enumerate(alike) if _agrees(point, each, half))
            if (at := next(near, None)) is not None:
                found[point.tensor] = alike.pop(at)
    return found


def _agrees(point: TracedTensor, each: ReferenceTensor, half: bool) -> bool:
    floor = each.floor(half=half)
    return each.apart(point.values) <= floor and relative_error(point.values, each.values) <= floor


def _wrong(points: Sequence[TracedTensor], matches: Matches, half: bool) -> list[TracedTensor]:
    """The points beyond the noise, and those of which nothing is known and nothing right is made."""
    right: dict[str, bool] = {}
    made_of: dict[str, list[str]] = defaultdict(list)
    for point in reversed(points):
        match = matches.get(point.tensor)
        if match is not None:
            right[point.tensor] = _agrees(point, match, half)
        else:
            made = made_of[point.tensor]
            right[point.tensor] = any(right[each] for each in made) if made else not point.last
        for source in point.sources:
            made_of[source].append(point.tensor)
    return [point for point in points if not right[point.tensor]]


def _nearest(
    wrong: Sequence[TracedTensor], matches: Matches, known: Sequence[ReferenceTensor], half: bool
) -> dict[str, ReferenceTensor]:
    """What the wrong points that nothing agrees with were probably meant to be: the nearest, best one still free."""
    taken = {id(match) for match in matches.values()}
    found: dict[str, ReferenceTensor] = {}
    for point in wrong:
        if point.tensor in matches:
            continue
        alike = [each for each in known if each.values.shape == point.values.shape]
        alike.sort(key=lambda each: (id(each) in taken, each.apart(point.values)))
        probable = next((each for each in alike if not _agrees(point, each, half)), None)
        if probable is not None:
            found[point.tensor] = probable
            taken.add(id(probable))
    return found


def _become(
    points: Sequence[TracedTensor], matches: Matches, known: Sequence[ReferenceTensor], modules: Collection[str]
) -> dict[str, ReferenceTensor]:
    """As what the graph after knows each point: its node says of which module it is, else what it was found to be."""
    become = {each.tensor: each for each in known if each.tensor}
    for point in points:
        match = matches.get(point.tensor)
        module = module_path(point.node, modules) or (match.module if match else "")
        made_from = [match] if match else [become[source] for source in point.sources if source in become]
        noise32 = max((each.noise32 for each in made_from), default=0.0)
        noise16 = max((each.noise16 for each in made_from), default=0.0)
        become[point.tensor] = ReferenceTensor(point.tensor, module, point.values, noise32, noise16, point.sources)
    return become


def _missing(
    match: ReferenceTensor | None, points: Sequence[TracedTensor], known: Sequence[ReferenceTensor]
) -> str | None:
    """The module of a tensor that `match` is made from, and that no tensor here is called."""
    here = {name for point in points for name in (point.tensor, *point.sources)}
    sources = match.sources if match else ()
    return next((each.module for each in known if each.tensor in sources and each.tensor not in here), None)
