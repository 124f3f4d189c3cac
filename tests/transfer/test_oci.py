"""A bundle is a ModelPack artifact, and a manifest of layers is held against it."""

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
from tests.transfer.trips import address, pulled, pushed

PATH = "org.cncf.model.filepath"


def test_it_is_a_model_pack(served: Registry, tmp_path: Path) -> None:
    folder = small.made(tmp_path / "in", 1)
    (folder / "model.sig").write_text("signed")
    made = oci.build_artifact(folder, read_manifest(folder))
    whole = json.loads(made.manifest)
    assert whole["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    assert whole["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    assert whole["config"]["mediaType"] == "application/vnd.cncf.model.config.v1+json"
    config = json.loads(made.config)
    assert config["modelfs"] == {"type": "layers", "diffIds": [layer["digest"] for layer in whole["layers"]]}
    there = {layer["annotations"]["org.cncf.model.filepath"]: layer for layer in whole["layers"]}
    assert set(there) == set(small.contents(folder))
    for path, raw in small.contents(folder).items():
        assert there[path]["digest"] == f"sha256:{hashlib.sha256(raw).hexdigest()}"
        assert there[path]["size"] == len(raw)
        assert re.fullmatch(
            r"application/vnd\.cncf\.model\.(weight|weight\.config|dataset)\.v1\.raw", there[path]["mediaType"]
        )
    assert there[small.ORIN]["mediaType"] == "application/vnd.cncf.model.weight.v1.raw"
    assert oci.build_artifact(folder, read_manifest(folder)) == made
    pushed(folder, served.port, "pack")
    assert (Path(pulled(address(served, "pack"), tmp_path / "out").folder) / "model.sig").read_text() == "signed"


def test_layers_and_manifest_must_agree(served: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, make = small.made(tmp_path / "in", 6), oci.build_artifact

    def fewer(place: Path, manifest: Manifest) -> oci.Artifact:
        made = make(place, manifest)
        whole = json.loads(made.manifest)
        whole["layers"].pop()
        return oci.Artifact(small.text(whole), made.config, made.layers)

    monkeypatch.setattr(oci, "build_artifact", fewer)
    pushed(folder, served.port, "fewer")
    with pytest.raises(Refused, match="differ in"):
        pulled(address(served, "fewer"), tmp_path / "out")


@pytest.fixture
def whole(tmp_path: Path) -> dict[str, Any]:
    """The OCI manifest of a bundle."""
    folder = small.made(tmp_path / "in", 1)
    found: dict[str, Any] = json.loads(oci.build_artifact(folder, read_manifest(folder)).manifest)
    assert oci.parse_layers(small.text(found), "it")
    return found


@pytest.mark.parametrize(
    "changed",
    [
        *({"digest": digest} for digest in (f"sha512:{'0' * 64}", f"sha256:{'0' * 63}", "0" * 64, 5)),
        *({"size": size} for size in (-1, "5", 5.0, True, None)),
        *({"annotations": told} for told in ({}, {PATH: 5}, {PATH: ["a"]}, None)),
    ],
    ids=str,
)
def test_a_layer_of_another_form_is_refused(whole: dict[str, Any], changed: dict[str, Any]) -> None:
    whole["layers"][-1].update(changed)
    with pytest.raises(Refused, match="invalid OCI manifest"):
        oci.parse_layers(small.text(whole), "it")


def test_what_is_no_model_and_what_names_a_file_twice_is_refused(whole: dict[str, Any]) -> None:
    twice = {**whole, "layers": [*whole["layers"], whole["layers"][-1]]}
    with pytest.raises(Refused, match="it names a file twice"):
        oci.parse_layers(small.text(twice), "it")
    with pytest.raises(Refused, match="of type other"):
        oci.parse_layers(small.text({**whole, "artifactType": "other"}), "it")


def test_the_bundle_s_own_manifest_must_be_there_and_be_short(whole: dict[str, Any]) -> None:
    found = oci.parse_layers(small.text(whole), "it")
    assert [layer.path for layer in oci.signed_layers(found, "it")] == [MANIFEST_FILE]
    with pytest.raises(Refused, match=r"holds no manifest\.json"):
        oci.signed_layers(found[1:], "it")
    with pytest.raises(Refused, match="manifest of more than"):
        oci.signed_layers((dataclasses.replace(found[0], size=MAX_MANIFEST_BYTES + 1), *found[1:]), "it")


@pytest.mark.parametrize("change", [{"path": "more"}, {"size": 1}, {"sha256": "0" * 64}, None])
def test_each_layer_is_a_file_of_the_bundle(whole: dict[str, Any], tmp_path: Path, change: dict[str, Any]) -> None:
    found, manifest = oci.parse_layers(small.text(whole), "it"), read_manifest(tmp_path / "in")
    oci.check_layers(found, manifest, "it")
    last = (dataclasses.replace(found[-1], **change),) if change else ()
    with pytest.raises(Refused, match="differ in"):
        oci.check_layers((*found[:-1], *last), manifest, "it")


@pytest.mark.parametrize("known", ["by its address", "by the registry"])
def test_a_manifest_is_held_against_its_digest(whole: dict[str, Any], known: str) -> None:
    raw = small.text(whole)
    place = addresses.Registry(
        "http://127.0.0.1:1", "m", "1", oci.digest_of(raw) if known == "by its address" else None
    )
    headers = {} if place.digest else {"docker-content-digest": oci.digest_of(raw)}
    assert sources.fetch_manifest(Says(Reply(200, headers, raw)), place) == raw
    with pytest.raises(Refused, match=r"OCI manifest of .* does not have its digest"):
        sources.fetch_manifest(Says(Reply(200, headers, raw + b" ")), place)


def test_the_bundle_s_own_manifest_is_held_against_its_layer(whole: dict[str, Any], tmp_path: Path) -> None:
    raw = (tmp_path / "in" / MANIFEST_FILE).read_bytes()
    place = addresses.Registry("http://127.0.0.1:1", "m", "1")
    for blob in (raw, raw[:-1] + b" "):
        source = sources.RegistrySource(Says(Reply(200, {}, small.text(whole)), blob), place)
        if blob == raw:
            assert source.beside() == {MANIFEST_FILE: raw}
            continue
        with pytest.raises(Refused, match=r"manifest\.json of .* does not have its digest"):
            source.beside()


class Says(HttpClient):
    """A registry that gives one answer and has one blob."""

    def __init__(self, reply: Reply, blob: bytes = b"") -> None:
        super().__init__("http://127.0.0.1:1")
        self._reply, self._blob = reply, blob

    def ask(self, *_: object, **__: object) -> Reply:
        return self._reply

    def stream(self, url: str, start: int, size: int) -> Iterator[bytes]:
        yield self._blob
