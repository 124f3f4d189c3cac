"""What is compared, from where it lies: a run's folder or report, a bundle, or the document that a device printed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from deploytool import serde
from deploytool.bundle.manifest import (
    MANIFEST_FILE,
    Manifest,
    Role,
    all_files,
    content_digest,
    manifest_digest,
    read_manifest,
)
from deploytool.device.verify import Verification
from deploytool.diff import Side, Value, bench_figures
from deploytool.diff.figures import Figure, of_report, of_tried, sorted_by_quantity
from deploytool.errors import BadInput
from deploytool.host import files
from deploytool.results import receipt, report, verdict
from deploytool.results.artifact import Kind
from deploytool.results.report import Report
from deploytool.spec import Stage

RUN, BUNDLE, DEVICE = "run", "bundle", "device"
_LONGEST = 64 << 20  # bytes of a document
_VOLATILE = ((Stage.PACK, "content_digest"), (Stage.PACK, "bytes"))  # which follow from the rest


def read(path: Path) -> Side:
    """What lies there. Raises BadInput if it is none of them, Refused for a manifest that cannot be right."""
    if (path / MANIFEST_FILE).is_file():
        return _bundle(path)
    if path.is_dir():
        return _run(path)
    if not path.is_file():
        raise BadInput(f"there is no {path}", "give a run, a bundle, or a file with what a device printed")
    data = _document(path)
    if isinstance(data, Mapping) and report.names(data.get("schema")):
        return _reported(path, report.read(path), {}, ())
    return _device(path, data)


def _document(path: Path) -> object:
    try:
        return serde.loads(files.read(path, _LONGEST), _LONGEST)
    except serde.Malformed as error:
        raise BadInput(f"{path} is no JSON document", "save what verify or bench print with --json") from error


def _run(home: Path) -> Side:
    """A run's folder: its report, what its stages noted, and the files as they are now."""
    written = home / Stage.VALIDATE / Kind.REPORT.value
    if not written.is_file():
        raise BadInput(f"{home} holds neither a finished run nor a bundle", "`deploytool export` makes one")
    facts: dict[str, str] = {}
    for room in sorted(path for path in home.iterdir() if path.is_dir()):
        if sealed := receipt.read(room):
            facts |= {"weights": sealed.weights or "none"}
            said = {name: value for name, value in sealed.notes.items() if (sealed.made_by, name) not in _VOLATILE}
            facts |= {f"{sealed.made_by} {name}": str(value) for name, value in said.items() if _plain(value)}
            graphs = {name: sha256 for name, sha256 in sealed.files.items() if _is_graph(name)}
            facts |= {f"bytes of {room.name}/{name}": sha256 for name, sha256 in graphs.items()}
    found = report.read(written)
    names = {f"{comparison.stage}/{comparison.file}" for comparison in found.comparisons}
    there = [name for name in sorted(names) if (home / name).is_file()]
    sizes = [("size", name, Value(float((home / name).stat().st_size))) for name in there]
    return _reported(home, found, facts, [*sizes, *bench_figures.of_run(home, found.device)])


def _is_graph(name: str) -> bool:
    """Whether a file is a graph of its own stage; what else is made is never twice the same, or is a copy."""
    return name.endswith(".onnx") and "/" not in name


def _plain(value: object) -> bool:
    """Whether a note is a choice or a count, and not a measurement."""
    return isinstance(value, (str, bool, int)) and "\n" not in str(value)


def _reported(path: Path, found: Report, facts: Mapping[str, str], more: Sequence[Figure]) -> Side:
    said = {
        "model": found.model,
        "images": f"{found.images} of {found.data or 'drawn ones'}",
        "batch": str(found.batch),
        "machine": found.device,
        "verdict": "; ".join(verdict.failed_lines(found)) or "pass for all that ran",
        **{f"version of {name}": version for name, version in found.versions.items()},
        **{f"target {each.target}": each.verdict for each in found.targets},
        **{f"engine {each.file}": f"{each.flavour} {each.version}" for each in found.engines},
        **facts,
    }
    figures = sorted_by_quantity([*of_report(found), *more])
    return Side(RUN, str(path), found.model, found.device, said, figures)


def _bundle(folder: Path) -> Side:
    """A bundle by its manifest, which is believed: nothing of it is opened."""
    manifest = read_manifest(folder)
    source = manifest.provenance
    facts = {
        **_identity(manifest.name, manifest.sequence, content_digest(manifest), manifest_digest(folder)),
        "weights": source.weights,
        "definition": source.factory,
        **{f"argument {name}": str(value) for name, value in source.arguments.items()},
        **{f"choice {name}": str(value) for name, value in source.choices.items()},
        **{f"version of {name}": version for name, version in source.versions.items()},
        **{f"made by {stage}": sha256 for stage, sha256 in source.artifacts.items()},
        **{f"target {each.target}": each.verdict for each in manifest.targets},
        **{f"input {one.name}": f"{one.dtype} {'×'.join(map(str, one.shape))}" for one in manifest.inputs},
        **{f"output {one.name}": f"{one.dtype} {'×'.join(map(str, one.shape))}" for one in manifest.outputs},
        **{_engine(manifest, place): each.version for place, each in enumerate(manifest.engines)},
    }
    tolerated = {
        f"{name} in {limit.part}" if len(limits.parts) > 1 else name: Value(limit.tolerance.max_error)
        for name, limits in manifest.tolerances.items()
        for limit in limits.parts
    }
    return Side(BUNDLE, str(folder), manifest.name, "", facts, {"tolerated": tolerated, "size": _sizes(manifest)})


def _identity(name: str, sequence: int, content_digest: str, digest: str) -> dict[str, str]:
    return {"model": name, "sequence": str(sequence), "content_digest": content_digest, "digest": digest}


def _engine(manifest: Manifest, place: int) -> str:
    """What an engine is called by whom it is for: its file bears the release that built it."""
    engine = manifest.engines[place]
    return f"engine {engine.flavour} for {' '.join(engine.capabilities)}"


def _sizes(manifest: Manifest) -> dict[str, Value]:
    graphs = {file.path: Value(float(file.size)) for file in manifest.files if file.role is Role.GRAPH}
    engines = {
        _engine(manifest, place): Value(float(engine.file.size)) for place, engine in enumerate(manifest.engines)
    }
    return {**graphs, **engines, "all files": Value(float(sum(file.size for file in all_files(manifest))))}


def brought(path: Path) -> Verification:
    """What `verify` or `bench` printed with --json on a device, saved to a file; raises BadInput if it is not that."""
    return _verified(path, _document(path))


def _verified(path: Path, data: object) -> Verification:
    try:
        return serde.decode(Verification, data["result"] if isinstance(data, Mapping) else data)
    except (KeyError, serde.Malformed) as error:
        raise BadInput(f"{path} is not what a device prints", "save what verify or bench print with --json") from error


def _device(path: Path, data: object) -> Side:
    """What a device brought home."""
    found = _verified(path, data)
    facts = {
        **_identity(found.name, found.sequence, found.content_digest, found.digest),
        "machine": found.machine,
        "serves": found.tier or "nothing",
        **{f"{each.tier} {each.file}".strip(): each.reason or str(each.status) for each in found.tried},
    }
    return Side(DEVICE, str(path), found.name, found.machine, facts, sorted_by_quantity(of_tried(found.tried)))
