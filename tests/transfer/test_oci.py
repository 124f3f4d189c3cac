"""A bundle as a ModelPack artifact: its layers, and their comparison with the manifest of the bundle."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploytool.bundle.manifest import MANIFEST_FILE, MAX_MANIFEST_BYTES, Manifest, read_manifest
from deploytool.errors import Refused
from deploytool.transfer import addresses, oci, sources
from deploytool.transfer.http import HttpClient, Reply
from tests.transfer import small
from tests.transfer.servers import Registry
from tests.transfer.trips import address, pull_bundle, push_bundle

PATH = "org.cncf.model.filepath"


def test_a_bundle_is_a_model_pack(served: Registry, tmp_path: Path) -> None:
    folder = small.make_bundle(tmp_path / "in", 1)
    (folder / "model.sig").write_text("signed")
    artifact = oci.build_artifact(folder, read_manifest(folder))
    oci_manifest = json.loads(artifact.manifest)
    assert oci_manifest["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    assert oci_manifest["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    assert oci_manifest["config"]["mediaType"] == "application/vnd.cncf.model.config.v1+json"
    config = json.loads(artifact.config)
    assert config["modelfs"] == {"type": "layers", "diffIds": [layer["digest"] for layer in oci_manifest["layers"]]}
    layers = {layer["annotations"]["org.cncf.model.filepath"]: layer for layer in oci_manifest["layers"]}
    assert set(layers) == set(small.contents(folder))
    for path, raw in small.contents(folder).items():
        assert layers[path]["digest"] == f"sha256:{hashlib.sha256(raw).hexdigest()}"
        assert layers[path]["size"] == len(raw)
        assert re.fullmatch(
            r"application/vnd\.cncf\.model\.(weight|weight\.config|dataset)\.v1\.raw", layers[path]["mediaType"]
        )
    assert layers[small.ORIN]["mediaType"] == "application/vnd.cncf.model.weight.v1.raw"
    assert oci.build_artifact(folder, read_manifest(folder)) == artifact
    push_bundle(folder, served.port, "pack")
    assert (Path(pull_bundle(address(served, "pack"), tmp_path / "out").folder) / "model.sig").read_text() == "signed"


def test_layers_and_manifest_must_agree(served: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, make = small.make_bundle(tmp_path / "in", 6), oci.build_artifact

    def fewer(place: Path, manifest: Manifest) -> oci.Artifact:
        artifact = make(place, manifest)
        oci_manifest = json.loads(artifact.manifest)
        oci_manifest["layers"].pop()
        return oci.Artifact(small.text(oci_manifest), artifact.config, artifact.layers)

    monkeypatch.setattr(oci, "build_artifact", fewer)
    push_bundle(folder, served.port, "fewer")
    with pytest.raises(Refused, match="differ in"):
        pull_bundle(address(served, "fewer"), tmp_path / "out")


@pytest.fixture
def oci_manifest(tmp_path: Path) -> dict[str, Any]:
    """The OCI manifest of a bundle."""
    folder = small.make_bundle(tmp_path / "in", 1)
    document: dict[str, Any] = json.loads(oci.build_artifact(folder, read_manifest(folder)).manifest)
    assert oci.parse_layers(small.text(document), "it")
    return document


@pytest.mark.parametrize(
    "changed",
    [
        *({"digest": digest} for digest in (f"sha512:{'0' * 64}", f"sha256:{'0' * 63}", "0" * 64, 5)),
        *({"size": size} for size in (-1, "5", 5.0, True, None)),
        *({"annotations": annotations} for annotations in ({}, {PATH: 5}, {PATH: ["a"]}, None)),
    ],
    ids=str,
)
def test_an_invalid_layer_is_refused(oci_manifest: dict[str, Any], changed: dict[str, Any]) -> None:
    oci_manifest["layers"][-1].update(changed)
    with pytest.raises(Refused, match="invalid OCI manifest"):
        oci.parse_layers(small.text(oci_manifest), "it")


def test_another_artifact_type_and_duplicate_files_are_refused(oci_manifest: dict[str, Any]) -> None:
    duplicated = {**oci_manifest, "layers": [*oci_manifest["layers"], oci_manifest["layers"][-1]]}
    with pytest.raises(Refused, match="it names a file twice"):
        oci.parse_layers(small.text(duplicated), "it")
    with pytest.raises(Refused, match="of type other"):
        oci.parse_layers(small.text({**oci_manifest, "artifactType": "other"}), "it")


def test_the_manifest_of_the_bundle_must_exist_and_be_short(oci_manifest: dict[str, Any]) -> None:
    found = oci.parse_layers(small.text(oci_manifest), "it")
    assert [layer.path for layer in oci.signed_layers(found, "it")] == [MANIFEST_FILE]
    with pytest.raises(Refused, match=r"holds no manifest\.json"):
        oci.signed_layers(found[1:], "it")
    with pytest.raises(Refused, match="manifest of more than"):
        oci.signed_layers((dataclasses.replace(found[0], size=MAX_MANIFEST_BYTES + 1), *found[1:]), "it")


@pytest.mark.parametrize("change", [{"path": "more"}, {"size": 1}, {"sha256": "0" * 64}, None])
def test_every_layer_must_be_a_file_of_the_bundle(
    oci_manifest: dict[str, Any], tmp_path: Path, change: dict[str, Any]
) -> None:
    found, manifest = oci.parse_layers(small.text(oci_manifest), "it"), read_manifest(tmp_path / "in")
    oci.check_layers(found, manifest, "it")
    last = (dataclasses.replace(found[-1], **change),) if change else ()
    with pytest.raises(Refused, match="differ in"):
        oci.check_layers((*found[:-1], *last), manifest, "it")
    with pytest.raises(Refused, match="differ in"):
        oci.check_layers((*found, dataclasses.replace(found[-1], path="more")), manifest, "it")


@pytest.mark.parametrize("known", ["by its address", "by the registry"])
def test_the_digest_of_an_oci_manifest_is_verified(oci_manifest: dict[str, Any], known: str) -> None:
    raw = small.text(oci_manifest)
    place = addresses.Registry(
        "http://127.0.0.1:1", "m", "1", oci.digest_of(raw) if known == "by its address" else None
    )
    headers = {} if place.digest else {"docker-content-digest": oci.digest_of(raw)}
    assert sources.fetch_manifest(OneResponse(Reply(200, headers, raw)), place) == raw
    with pytest.raises(Refused, match=r"OCI manifest of .* does not have its digest"):
        sources.fetch_manifest(OneResponse(Reply(200, headers, raw + b" ")), place)


def test_the_digest_of_the_manifest_of_the_bundle_is_verified(oci_manifest: dict[str, Any], tmp_path: Path) -> None:
    raw = (tmp_path / "in" / MANIFEST_FILE).read_bytes()
    place = addresses.Registry("http://127.0.0.1:1", "m", "1")
    for blob in (raw, raw[:-1] + b" "):
        source = sources.RegistrySource(OneResponse(Reply(200, {}, small.text(oci_manifest)), blob), place)
        if blob == raw:
            assert source.beside() == {MANIFEST_FILE: raw}
            continue
        with pytest.raises(Refused, match=r"manifest\.json of .* does not have its digest"):
            source.beside()


class OneResponse(HttpClient):
    """A registry with one response and one blob."""

    def __init__(self, reply: Reply, blob: bytes = b"") -> None:
        super().__init__("http://127.0.0.1:1")
        self._reply, self._blob = reply, blob

    def ask(self, *_: object, **__: object) -> Reply:
        return self._reply

    def stream(self, url: str, start: int, size: int) -> Iterator[bytes]:
        yield self._blob
