"""Tests of finding models by name, by reference, and from entry points."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploytool.errors import BadInput
from deploytool.loading import catalog
from tests.conftest import modules_of


@pytest.mark.parametrize("name", ["shufflenet_g3", "ShuffleNet-G3", "shuffleNet_g3_", " shufflenet_g3 "])
def test_case_dashes_and_outer_underscores_do_not_matter(name: str) -> None:
    assert catalog.find(name).name == "shufflenet_g3"


def test_the_remedy_for_an_unknown_name_is_the_closest_one() -> None:
    with pytest.raises(BadInput, match="there is no model 'shuflenet_g3'") as caught:
        catalog.find("shuflenet_g3")
    assert "shufflenet_g3" in caught.value.remedy


@pytest.mark.parametrize("name", ["resnet18", "zzz", "efficientnet_b0"])
def test_a_dissimilar_name_is_not_suggested(name: str) -> None:
    with pytest.raises(BadInput) as caught:
        catalog.find(name)
    assert "did you mean" not in caught.value.remedy
    assert "FILE.py:FACTORY" in caught.value.remedy


def test_the_remedy_for_a_file_is_its_factories(tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text("raise SystemExit\nclass Net(nn.Module): ...\nclass Other: ...\ndef make(): ...\ndef _own(): ...\n")
    with pytest.raises(BadInput) as caught:
        catalog.find(str(file))
    assert caught.value.remedy.endswith(f": {file}:make or {file}:Net")
    file.write_text("def (")
    with pytest.raises(BadInput) as caught:
        catalog.find(str(file))
    assert caught.value.remedy.endswith(f": {file}:FACTORY")


def test_a_file_of_weights_is_no_model_and_the_remedy_says_where_it_goes(tmp_path: Path) -> None:
    for name in ("w.pt", "program.pt2", "w.safetensors"):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(BadInput, match="there is no model") as caught:
            catalog.find(str(tmp_path / name))
        assert "--weights" in caught.value.remedy
    with pytest.raises(BadInput) as caught:
        catalog.find("missing.pt")
    assert "--weights" not in caught.value.remedy


def test_the_catalog_does_not_import_torch() -> None:
    assert not {"torch", "onnx"} & modules_of("from deploytool.loading import catalog; catalog.find('mixnet_s')")


class Broken:
    """An entry point of a package that cannot be imported."""

    value = "third_party.models:ALL"

    def load(self) -> object:
        raise ImportError("no module named third_party")


def test_a_broken_entry_point_is_named_and_does_not_affect_the_zoo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "entry_points", lambda group: [Broken()])
    assert catalog.find("mixnet_s").name == "mixnet_s"
    with pytest.raises(BadInput, match=r"the models of third_party\.models:ALL cannot be loaded: ImportError"):
        catalog.models()
