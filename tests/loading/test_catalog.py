from __future__ import annotations

from pathlib import Path

import pytest

from deploytool.errors import BadInput
from deploytool.loading import catalog
from tests.conftest import modules_of


@pytest.mark.parametrize("name", ["shufflenet_g3", "ShuffleNet-G3", "shuffleNet_g3_", " shufflenet_g3 "])
def test_a_name_is_found_however_it_is_spelled(name: str) -> None:
    assert catalog.find(name).name == "shufflenet_g3"


def test_a_wrong_name_gets_the_closest_one() -> None:
    with pytest.raises(BadInput, match="there is no model 'shuflenet_g3'") as caught:
        catalog.find("shuflenet_g3")
    assert caught.value.remedy == "did you mean shufflenet_g3?"


@pytest.mark.parametrize("name", ["resnet18", "zzz", "efficientnet_b0"])
def test_a_name_that_is_near_none_gets_no_other_model(name: str) -> None:
    with pytest.raises(BadInput) as caught:
        catalog.find(name)
    assert "did you mean" not in caught.value.remedy
    assert "FILE.py:FACTORY" in caught.value.remedy


def test_a_file_without_a_factory_gets_the_factories_in_it(tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text("raise SystemExit\nclass Net(nn.Module): ...\nclass Other: ...\ndef make(): ...\ndef _own(): ...\n")
    with pytest.raises(BadInput) as caught:
        catalog.find(str(file))
    assert caught.value.remedy.endswith(f": {file}:make or {file}:Net")
    file.write_text("def (")
    with pytest.raises(BadInput) as caught:
        catalog.find(str(file))
    assert caught.value.remedy.endswith(f": {file}:FACTORY")


def test_the_catalog_needs_no_torch() -> None:
    assert not {"torch", "onnx"} & modules_of("from deploytool.loading import catalog; catalog.find('mixnet_s')")


class Broken:
    """An entry point of a package that cannot be imported."""

    value = "their.models:ALL"

    def load(self) -> object:
        raise ImportError("no module named theirs")


def test_a_package_that_cannot_add_its_models_is_named_and_stops_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "entry_points", lambda group: [Broken()])
    assert catalog.find("mixnet_s").name == "mixnet_s"
    with pytest.raises(BadInput, match=r"the models of their\.models:ALL cannot be loaded: ImportError"):
        catalog.models()
