"""Every known trap on a machine that is in it, none on machines that are not, and the very line that mends it."""

from __future__ import annotations

import dataclasses

import pytest

from deploytool.doctor import traps
from deploytool.doctor.inventory import Inventory
from deploytool.doctor.providers import CPU, Provider
from tests.doctor.machines import LOST, ORIN, desk, pc

RIGHT = (
    desk(),
    desk(torch="2.13.0+cpu", tensorrt_rtx="1.7.1", tensorrt_rtx_cu13_libs="1.7.1"),
    pc(tensorrt="10.16.1", nvidia_cublas="13.10", torch="2.13.0+cu130"),
)


@pytest.mark.parametrize("found", RIGHT)
def test_a_machine_without_a_trap_has_none(found: Inventory) -> None:
    assert traps.find_traps(found) == ()


@pytest.mark.parametrize(
    ("name", "found", "problem", "mend"),
    [
        (
            "both runtimes",
            desk(onnxruntime_gpu="1.31.1"),
            "each overwrites the other's files",
            "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime",
        ),
        (
            "both runtimes",
            pc(onnxruntime="1.30.0", tensorrt="10.16.1"),
            "are both installed",
            "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'onnxruntime-gpu[cuda,cudnn]'",
        ),
        (
            "broken runtime",
            dataclasses.replace(desk(), providers=(Provider(CPU, False, "onnxruntime cannot be imported: no numpy"),)),
            "does not start on the CPU: onnxruntime cannot be imported: no numpy",
            "pip install --force-reinstall --no-deps onnxruntime==1.31.1",
        ),
        (
            "mixed CUDA",
            pc(nvidia_cublas_cu12="12.6", nvidia_cudnn_cu12="9.5", nvidia_cublas="13.10"),
            "libraries of CUDA 12 and 13 are installed side by side: onnxruntime-gpu 1.31.1 is made for CUDA 13",
            "pip uninstall -y nvidia-cublas-cu12 nvidia-cudnn-cu12",
        ),
        (
            "mixed CUDA",
            pc(nvidia_cublas_cu12="12.6", torch="2.13.0+cu126"),
            "torch 2.13.0+cu126 is made for CUDA 12",
            "pip uninstall -y torch nvidia-cublas-cu12, then install a torch made for CUDA 13",
        ),
        (
            "mixed CUDA",
            dataclasses.replace(pc("12.8", nvidia_cublas_cu12="12.6"), asked={}),
            "side by side",
            "pip uninstall -y nvidia-cudnn-cu13",
        ),
        (
            "placeholder TensorRT",
            desk(tensorrt="10.13-empty", tensorrt_cu13="10.13-empty"),
            "tensorrt 10.13 is installed, and no libnvinfer with it",
            "pip uninstall -y tensorrt tensorrt-cu13, "
            "then install TensorRT from NVIDIA: its own index, archive or JetPack",
        ),
        (
            "unseen TensorRT",
            dataclasses.replace(desk(), loads=("10",)),
            "libnvinfer.so.10 is on this system, and this Python does not see its tensorrt module",
            "make the environment anew: python3 -m venv --system-site-packages .venv",
        ),
        (
            "old driver",
            pc("12.4", on_cuda=LOST, on_tensorrt=LOST),
            "the driver serves CUDA 12.4, and ONNX Runtime's CUDA provider is made for CUDA 13",
            "update the NVIDIA driver to one that serves CUDA 13",
        ),
        (
            "other TensorRT",
            dataclasses.replace(pc(on_tensorrt=LOST), loads=("11",)),
            "ONNX Runtime's TensorRT provider needs libnvinfer.so.10, and here is TensorRT 11",
            "pip install 'tensorrt==10.*'; deploytool's own engines need no such thing",
        ),
        (
            "falls back",
            dataclasses.replace(pc(on_cuda=LOST, on_tensorrt=LOST), gpus=(), cuda=""),
            "TensorrtExecutionProvider is listed and cannot start: no CUDA GPU answers here",
            "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime, "
            "or install the NVIDIA driver if there is a GPU",
        ),
        (
            "falls back",
            pc(on_cuda=LOST, on_tensorrt=LOST),
            f"CUDAExecutionProvider is listed and does not start: {LOST}",
            "pip install --upgrade --force-reinstall 'onnxruntime-gpu[cuda,cudnn]'",
        ),
        (
            "falls back",
            pc(on_tensorrt=LOST),
            f"TensorrtExecutionProvider is listed and does not start: {LOST}",
            "pip install 'tensorrt==10.*', or do without: CUDAExecutionProvider starts",
        ),
        (
            "idle GPU",
            dataclasses.replace(pc(), providers=(Provider(CPU, True),), asked={}, loads=()),
            "NVIDIA GeForce RTX 4090 answers, and this ONNX Runtime has no CUDA provider",
            "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'onnxruntime-gpu[cuda,cudnn]'",
        ),
        (
            "idle GPU",
            dataclasses.replace(desk(), processor="aarch64", gpus=(ORIN,), cuda="12.6"),
            "Orin answers",
            "pip uninstall -y onnxruntime, then install JetPack's onnxruntime-gpu",
        ),
    ],
)
def test_a_trap_is_named_with_its_mend(name: str, found: Inventory, problem: str, mend: str) -> None:
    trap = next(trap for trap in traps.find_traps(found) if trap.name == name)
    assert problem in trap.problem
    assert trap.mend == mend


def test_a_tensorrt_that_the_loader_does_not_find_is_not_called_another_one() -> None:
    first, *_ = traps.find_traps(pc(on_tensorrt=LOST, tensorrt="10.16.1"))
    assert first.name == "TensorRT out of sight"
    assert "LD_LIBRARY_PATH" in first.mend


@pytest.mark.parametrize(
    ("name", "version", "major"),
    [
        ("nvidia-cudnn-cu12", "9.5", "12"),
        ("nvidia-cublas", "13.10.0.1", "13"),
        ("nvidia-cufft", "12.0", ""),  # its version is its own
        ("torch", "2.13.0+cu126", "12"),
        ("torch", "2.13.0+cpu", ""),
        ("tensorrt-cu13", "10.16", "13"),
        ("nvidia-nccl-cu13", "2.28", "13"),
    ],
)
def test_which_cuda_a_distribution_is_for(name: str, version: str, major: str) -> None:
    assert traps.cuda_of(name, version) == major
