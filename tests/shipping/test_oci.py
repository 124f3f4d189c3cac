"""A bundle is a ModelPack artifact, and a manifest of layers is held against it."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest

from deploytool import bundle
from deploytool.errors import Refused
from deploytool.shipping import oci
from tests.shipping import small
from tests.shipping.servers import Registry
from tests.shipping.trips import address, pulled, pushed


def test_it_is_a_model_pack(served: Registry, tmp_path: Path) -> None:
    folder = small.made(tmp_path / "in", 1)
    (folder / "model.sig").write_text("signed")
    made = oci.artifact(folder, bundle.read(folder))
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
    assert oci.artifact(folder, bundle.read(folder)) == made
    pushed(folder, served.port, "pack")
    assert (Path(pulled(address(served, "pack"), tmp_path / "out").folder) / "model.sig").read_text() == "signed"


def test_layers_and_manifest_must_agree(served: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, make = small.made(tmp_path / "in", 6), oci.artifact

    def fewer(place: Path, manifest: bundle.Manifest) -> oci.Artifact:
        made = make(place, manifest)
        whole = json.loads(made.manifest)
        whole["layers"].pop()
        return oci.Artifact(small.text(whole), made.config, made.layers)

    monkeypatch.setattr(oci, "artifact", fewer)
    pushed(folder, served.port, "fewer")
    with pytest.raises(Refused, match="do not agree about"):
        pulled(address(served, "fewer"), tmp_path / "out")
