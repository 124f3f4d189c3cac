"""A bundle as the CNCF ModelPack specification writes it: an OCI manifest with one raw layer for every file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploytool import serde
from deploytool.bundle.manifest import (
    MANIFEST_FILE,
    MAX_MANIFEST_BYTES,
    SIGNATURE_FILE,
    File,
    Manifest,
    Role,
    all_files,
)
from deploytool.errors import Refused
from deploytool.host import files

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
ARTIFACT_TYPE = "application/vnd.cncf.model.manifest.v1+json"
CONFIG_TYPE = "application/vnd.cncf.model.config.v1+json"
FILE_PATH = "org.cncf.model.filepath"
_WEIGHT, _CONFIG, _DATA = (
    f"application/vnd.cncf.model.{kind}.v1.raw" for kind in ("weight", "weight.config", "dataset")
)
_TYPES = {
    Role.GRAPH: _WEIGHT,
    Role.WEIGHTS: _WEIGHT,
    Role.ENGINE: _WEIGHT,
    Role.GOLDEN: _DATA,
    Role.IMAGE: _DATA,
    Role.RECIPE: _CONFIG,
    Role.SERVER: _CONFIG,
}


@dataclass(frozen=True)
class Layer:
    """A file of a bundle as a layer of an OCI artifact; `sha256` is its digest in hexadecimal."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Artifact:
    """The OCI manifest of a bundle, its config blob, and its layers in order."""

    manifest: bytes
    config: bytes
    layers: tuple[Layer, ...]

    @property
    def digest(self) -> str:
        """The digest of the OCI manifest, which identifies the artifact."""
        return digest_of(self.manifest)


def digest_of(raw: bytes) -> str:
    """The digest of some bytes in OCI's notation, `sha256:…`."""
    return f"sha256:{hashlib.sha256(raw).hexdigest()}"


def build_artifact(folder: Path, manifest: Manifest) -> Artifact:
    """Describes a bundle as an OCI artifact; the same bundle gives the same bytes."""
    layers, types = [], []
    for path in (MANIFEST_FILE, SIGNATURE_FILE):
        if path == MANIFEST_FILE or (folder / path).exists():
            raw = files.read(folder / path, MAX_MANIFEST_BYTES)
            layers.append(Layer(path, len(raw), hashlib.sha256(raw).hexdigest()))
            types.append(_CONFIG)
    for file in all_files(manifest):
        layers.append(Layer(file.path, file.size, file.sha256))
        types.append(_TYPES[file.role])
    model = {
        "descriptor": {"name": manifest.name, "version": str(manifest.sequence)},
        "config": {"format": "onnx"},
        "modelfs": {"type": "layers", "diffIds": [f"sha256:{layer.sha256}" for layer in layers]},
    }
    config = serde.text(model).encode()
    manifest_document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "artifactType": ARTIFACT_TYPE,
        "config": {"mediaType": CONFIG_TYPE, "digest": digest_of(config), "size": len(config)},
        "layers": [_descriptor(layer, kind) for layer, kind in zip(layers, types, strict=True)],
        "annotations": {"org.opencontainers.image.title": manifest.name},
    }
    return Artifact(serde.text(manifest_document).encode(), config, tuple(layers))


def _descriptor(layer: Layer, kind: str) -> dict[str, Any]:
    annotations = {FILE_PATH: layer.path}
    digest = f"sha256:{layer.sha256}"
    return {"mediaType": kind, "digest": digest, "size": layer.size, "annotations": annotations}


def parse_layers(raw: bytes, where: str) -> tuple[Layer, ...]:
    """Parses the layers of an OCI manifest of unknown origin; raises Refused if it is not that of a bundle."""
    try:
        document = serde.loads(raw)
        if document.get("artifactType") != ARTIFACT_TYPE:
            raise Refused(f"{where} is not a bundle but of type {document.get('artifactType')}", "check the name")
        layers = tuple(_layer(entry) for entry in document["layers"])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise Refused(f"{where} has an invalid OCI manifest: {error}", files.FETCH_AGAIN) from error
    if len({layer.path for layer in layers}) < len(layers):
        raise Refused(f"{where} names a file twice", files.FETCH_AGAIN)
    return layers


def _layer(data: Mapping[str, Any]) -> Layer:
    kind, _, sha256 = data["digest"].partition(":")
    path, size = data["annotations"][FILE_PATH], data["size"]
    if kind != "sha256" or len(sha256) != 64 or type(size) is not int or size < 0 or not isinstance(path, str):
        raise ValueError(f"invalid layer {data}")
    return Layer(path, size, sha256)


def signed_layers(layers: tuple[Layer, ...], where: str) -> tuple[Layer, ...]:
    """The layers of the bundle's own manifest and of its signature, which are fetched before anything else."""
    selected = tuple(layer for layer in layers if layer.path in (MANIFEST_FILE, SIGNATURE_FILE))
    if MANIFEST_FILE not in {layer.path for layer in selected}:
        raise Refused(f"{where} holds no {MANIFEST_FILE}: another tool made it", "push it with deploytool")
    if any(layer.size > MAX_MANIFEST_BYTES for layer in selected):
        raise Refused(f"{where} has a manifest of more than {MAX_MANIFEST_BYTES >> 20} MiB", files.FETCH_AGAIN)
    return selected


def check_layers(layers: tuple[Layer, ...], manifest: Manifest, where: str) -> None:
    """Raises Refused unless the layers are the files of the bundle's manifest, one for one."""
    expected = {_key(file) for file in all_files(manifest)}
    pushed = {
        (layer.path, layer.size, layer.sha256) for layer in layers if layer.path not in (MANIFEST_FILE, SIGNATURE_FILE)
    }
    if expected != pushed:
        path = min(expected ^ pushed)[0]
        raise Refused(f"the OCI manifest of {where} and the bundle's own manifest differ in {path}", files.FETCH_AGAIN)


def _key(file: File) -> tuple[str, int, str]:
    return file.path, file.size, file.sha256
