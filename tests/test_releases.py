"""The releases of JetPack: what NVIDIA states of each, which of them are served, and how a device's own is read."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from deploytool import releases
from deploytool.doctor import messages
from deploytool.doctor.diagnosis import Diagnosis
from tests.doctor.machines import cpu_machine

STATED = """
5.0.2 35.1.0 8.4.1 11.4 3.8
5.1   35.2.1 8.5.2 11.4 3.8
5.1.1 35.3.1 8.5.2 11.4 3.8
5.1.2 35.4.1 8.5.2 11.4 3.8
5.1.3 35.5.0 8.5.2 11.4 3.8
5.1.4 35.6.0 8.5.2 11.4 3.8
5.1.5 35.6.1 8.5.2 11.4 3.8
5.1.6 35.6.4 8.5.2 11.4 3.8
6.0   36.3.0 8.6.2 12.2 3.10
6.1   36.4.0 10.3.0 12.6 3.10
6.2   36.4.3 10.3.0 12.6 3.10
6.2.1 36.4.4 10.3.0 12.6 3.10
6.2.2 36.5.0 10.3.0 12.6 3.10
6.2.3 36.5.2 10.3.0 12.6 3.10
7.0   38.2.0 10.13.3 13.0 3.12
7.1   38.4.0 10.13.3 13.0 3.12
7.2   39.2.0 10.16.2 13.2 3.12
"""  # as NVIDIA's pages and users with such devices state them: JetPack, Jetson Linux, TensorRT, CUDA, Python


def test_the_table_says_what_nvidia_states() -> None:
    known = {each.jetpack: each for each in releases.RELEASES}
    for line in STATED.split("\n")[1:-1]:
        jetpack, *contents = line.split()
        found = known[jetpack]
        assert [found.l4t, found.tensorrt, found.cuda, found.python] == contents, jetpack


@pytest.mark.parametrize(
    ("jetpack", "refusal"),
    [
        ("5.1.3", "not served: it has Python 3.8, and deploytool needs 3.10"),
        ("6.0", "graphs only: it has TensorRT 8.6.2, and engines need 10.3"),
        ("6.2.1", None),
        ("7.2.2", None),
    ],
)
def test_what_is_served(jetpack: str, refusal: str | None) -> None:
    (found,) = (each for each in releases.RELEASES if each.jetpack == jetpack)
    assert found.refusal == refusal


@pytest.mark.parametrize(
    ("text", "jetpack"),
    [
        ("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64", "6.2"),
        ("# R36 (release), REVISION: 4.7, GCID: 1, BOARD: generic, EABI: aarch64", "6.2.1"),
        ("# R35 (release), REVISION: 4.1, GCID: 1", "5.1.2"),
        ("# R35 (release), REVISION: 6.2, GCID: 1", "5.1.5"),
        ("# R35 (release), REVISION: 6.4, GCID: 1", "5.1.6"),
        ("# R36 (release), REVISION: 5.0, GCID: 43688277, BOARD: generic, EABI: aarch64", "6.2.2"),
        ("# R36 (release), REVISION: 5.2, GCID: 46426093, BOARD: generic, EABI: aarch64", "6.2.3"),
        ("# R39 (release), REVISION: 2.1, GCID: 1", "7.2.1"),
        ("# R32 (release), REVISION: 7.1, GCID: 1", None),
        ("# R36 (release), REVISION: 2.0, GCID: 1", None),
        ("nothing of the kind", None),
    ],
)
def test_the_release_of_a_device(text: str, jetpack: str | None, tmp_path: Path) -> None:
    file = tmp_path / "nv_tegra_release"
    file.write_text(text)
    found = releases.installed(file)
    assert (found.jetpack if found else None) == jetpack
    assert releases.installed(tmp_path / "missing") is None


def test_the_releases_of_a_device_are_those_for_its_gpu() -> None:
    assert [each.jetpack for each in releases.for_capability("11.0")] == ["7.0", "7.1", "7.2", "7.2.1", "7.2.2"]
    assert releases.for_capability("8.7")[-1].tensorrt == "11.4.1"
    assert releases.for_capability("8.9") == ()


def test_a_graph_that_is_too_new_for_a_release() -> None:
    (found,) = (each for each in releases.RELEASES if each.jetpack == "6.2")
    assert found.graph_refusal(10, 20) is None
    assert found.graph_refusal(10, 23) == (
        "TensorRT 10.3.0 reads opsets up to 20, and the graph has opset 23, which 10.15 and later read"
    )


def test_the_doctor_names_the_release() -> None:
    (found,) = (each for each in releases.RELEASES if each.jetpack == "6.0")
    inventory = dataclasses.replace(cpu_machine(), jetpack=found)
    text = "\n".join(messages.lines(Diagnosis("", inventory, (), ())))
    assert "JetPack           6.0 (TensorRT 8.6.2, CUDA 12.2, Python 3.10, ONNX Runtime up to 1.23.2)" in text
    assert "graphs only: it has TensorRT 8.6.2, and engines need 10.3" in text
