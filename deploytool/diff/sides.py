"""Reads the two sides of a comparison: a run, a report, a bundle, a sweep, or the JSON output of a device."""

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
from deploytool.diff import bench_figures, sweep_side
from deploytool.diff.compare import Side, Value
from deploytool.diff.figures import Figure, of_probe_results, of_report, sorted_by_quantity
from deploytool.errors import BadInput
from deploytool.host import files, side_files
from deploytool.results import receipt, report, verdict
from deploytool.results import sweep as sweeps
from deploytool.results.artifact import Kind
from deploytool.results.receipt import Receipt
from deploytool.results.report import Report
from deploytool.spec import Stage

RUN, BUNDLE, DEVICE = "run", "bundle", "device"
_MAX_DOCUMENT = 64 << 20  # bytes
_DERIVED_NOTES = ((Stage.PACK, "content_digest"), (Stage.PACK, "bytes"))  # change whenever anything else does
_REMEDY = "save the output of verify or bench with --json"


def read(path: Path) -> Side:
    """The side at a path; raises BadInput for another file, and Refused for an invalid manifest."""
    if (path / MANIFEST_FILE).is_file():
        return _read_bundle(path)
    if sweeps.is_sweep(path):
        return sweep_side.read(path)
    if path.is_dir():
        return _read_run(path)
    if not path.is_file():
        raise BadInput(f"{path} does not exist", "name a run, a bundle, a sweep, or a file with the output of a device")
    data = _load_json(path)
    if isinstance(data, Mapping) and report.is_report_schema(data.get("schema")):
        return _report_side(path, report.read(path), {}, ())
    return _device_side(path, data)


def read_both(a: Path, b: Path) -> tuple[Side, Side]:
    """The two sides of a comparison, as `read`; a sweep can only be compared with another sweep."""
    first, second = read(a), read(b)
    kinds = {first.kind, second.kind}
    if sweep_side.SWEEP in kinds and len(kinds) > 1:
        sweep, other = (a, second.kind) if first.kind == sweep_side.SWEEP else (b, first.kind)
        raise BadInput(f"{sweep} is a sweep, and the other side is a {other}", "give the folder of one of its cells")
    return first, second


def _load_json(path: Path) -> object:
    try:
        return serde.loads(files.read(path, _MAX_DOCUMENT), _MAX_DOCUMENT)
    except serde.Malformed as error:
        raise BadInput(f"{path} is not a JSON document", _REMEDY) from error


def _read_run(home: Path) -> Side:
    """A run: its report, the notes of its stages, the sizes of its files, and its benchmark."""
    path = home / Stage.VALIDATE / Kind.REPORT.value
    if not path.is_file():
        raise BadInput(f"{home} is neither a finished run nor a bundle", "`deploytool export` makes a run")
    facts: dict[str, str] = {}
    for directory in sorted(entry for entry in home.iterdir() if entry.is_dir()):
        if record := receipt.read(directory):
            facts |= _stage_facts(directory.name, record)
    written = report.read(path)
    names = {f"{comparison.stage}/{comparison.file}" for comparison in written.comparisons}
    existing = [name for name in sorted(names) if (home / name).is_file()]
    sizes = [("size", name, Value(float(side_files.total_size(home / name)))) for name in existing]
    return _report_side(home, written, facts, [*sizes, *bench_figures.of_run(home, written.device)])


def _stage_facts(directory: str, record: Receipt) -> dict[str, str]:
    """The notes of a stage, and the digests of its graphs."""
    notes = {name: value for name, value in record.notes.items() if (record.made_by, name) not in _DERIVED_NOTES}
    return {
        "weights": record.weights or "none",
        **{f"{record.made_by} {name}": str(value) for name, value in notes.items() if _is_choice(value)},
        **{f"bytes of {directory}/{name}": digest for name, digest in record.files.items() if _is_graph(name)},
    }


def _is_graph(name: str) -> bool:
    """Whether a file is a graph of its own stage; other files are not reproducible, or are copies."""
    return name.endswith(".onnx") and "/" not in name


def _is_choice(value: object) -> bool:
    """Whether a note is a choice or a count, and not a measurement."""
    return isinstance(value, (str, bool, int)) and "\n" not in str(value)


def _report_side(path: Path, written: Report, facts: Mapping[str, str], more: Sequence[Figure]) -> Side:
    all_facts = {
        "model": written.model,
        "images": f"{written.images} of {written.data or 'synthetic data'}",
        "batch": str(written.batch),
        "machine": written.device,
        "verdict": "; ".join(verdict.failed_lines(written)) or "pass for all that ran",
        **{f"version of {name}": version for name, version in written.versions.items()},
        **{f"target {target.target}": target.verdict for target in written.targets},
        **{f"engine {engine.file}": f"{engine.flavour} {engine.version}" for engine in written.engines},
        **facts,
    }
    figures = sorted_by_quantity([*of_report(written), *more])
    return Side(RUN, str(path), written.model, written.device, all_facts, figures)


def _read_bundle(folder: Path) -> Side:
    """A bundle as its manifest describes it; no other file is opened, and no digest is checked."""
    manifest = read_manifest(folder)
    source = manifest.provenance
    facts = {
        **_identity(manifest.name, manifest.sequence, content_digest(manifest), manifest_digest(folder)),
        "weights": source.weights,
        "definition": source.factory,
        **{f"argument {name}": str(value) for name, value in source.arguments.items()},
        **{f"choice {name}": str(value) for name, value in source.choices.items()},
        **{f"version of {name}": version for name, version in source.versions.items()},
        **{f"made by {stage}": digest for stage, digest in source.artifacts.items()},
        **{f"target {target.target}": target.verdict for target in manifest.targets},
        **{f"input {item.name}": f"{item.dtype} {'×'.join(map(str, item.shape))}" for item in manifest.inputs},
        **{f"output {item.name}": f"{item.dtype} {'×'.join(map(str, item.shape))}" for item in manifest.outputs},
        **{_engine_name(manifest, index): engine.version for index, engine in enumerate(manifest.engines)},
    }
    tolerances = {
        f"{name} in {limit.part}" if len(limits.parts) > 1 else name: Value(limit.tolerance.max_error)
        for name, limits in manifest.tolerances.items()
        for limit in limits.parts
    }
    return Side(BUNDLE, str(folder), manifest.name, "", facts, {"tolerance": tolerances, "size": _sizes(manifest)})


def _identity(name: str, sequence: int, content: str, digest: str) -> dict[str, str]:
    return {"model": name, "sequence": str(sequence), "content_digest": content, "digest": digest}


def _engine_name(manifest: Manifest, index: int) -> str:
    """The name of an engine by its capabilities: the file name contains the TensorRT release, which may differ."""
    engine = manifest.engines[index]
    return f"engine {engine.flavour} for {' '.join(engine.capabilities)}"


def _sizes(manifest: Manifest) -> dict[str, Value]:
    """File sizes in bytes: of each graph, each engine, and all files."""
    graphs = {file.path: Value(float(file.size)) for file in manifest.files if file.role in (Role.GRAPH, Role.WEIGHTS)}
    engines = {
        _engine_name(manifest, index): Value(float(engine.file.size)) for index, engine in enumerate(manifest.engines)
    }
    return {**graphs, **engines, "all files": Value(float(sum(file.size for file in all_files(manifest))))}


def read_verification(path: Path) -> Verification:
    """The JSON output of `verify` or `bench` on a device, saved to a file; raises BadInput if it is anything else."""
    return _verification(path, _load_json(path))


def _verification(path: Path, data: object) -> Verification:
    try:
        return serde.decode(Verification, data["result"] if isinstance(data, Mapping) else data)
    except (KeyError, serde.Malformed) as error:
        raise BadInput(f"{path} is not the output of a device", _REMEDY) from error


def _device_side(path: Path, data: object) -> Side:
    result = _verification(path, data)
    facts = {
        **_identity(result.name, result.sequence, result.content_digest, result.digest),
        "machine": result.machine,
        "selected": result.tier or "nothing",
        **{f"{probe.tier} {probe.file}".strip(): probe.reason or str(probe.status) for probe in result.tried},
    }
    figures = sorted_by_quantity(of_probe_results(result.tried))
    return Side(DEVICE, str(path), result.name, result.machine, facts, figures)
