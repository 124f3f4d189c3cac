"""Every trap is found on an example machine with its remedy, and none on machines without traps."""

from __future__ import annotations

import dataclasses

import pytest

from deploytool.doctor import traps
from deploytool.doctor.inventory import Inventory
from deploytool.doctor.providers import CPU, Provider
from tests.doctor.machines import MISSING_LIBRARY, ORIN, cpu_machine, gpu_machine

WITHOUT_TRAPS = (
    cpu_machine(),
    cpu_machine(torch="2.13.0+cpu", tensorrt_rtx="1.7.1", tensorrt_rtx_cu13_libs="1.7.1"),
    gpu_machine(tensorrt="10.16.1", nvidia_cublas="13.10", torch="2.13.0+cu130"),
)


@pytest.mark.parametrize("inventory", WITHOUT_TRAPS)
def test_a_machine_without_traps(inventory: Inventory) -> None:
    assert traps.find_traps(inventory) == ()


@pytest.mark.parametrize(
    ("name", "inventory", "problem", "remedy"),
    [
        (
            "both runtimes",
            cpu_machine(onnxruntime_gpu="1.31.1"),
            "each overwrites files of the other",
            "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime",
        ),
        (
            "both runtimes",
            gpu_machine(onnxruntime="1.30.0", tensorrt="10.16.1"),
            "are both installed",
            "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'onnxruntime-gpu[cuda,cudnn]'",
        ),
        (
            "broken runtime",
            dataclasses.replace(
                cpu_machine(), providers=(Provider(CPU, False, "onnxruntime cannot be imported: no numpy"),)
            ),
            "does not start on the CPU: onnxruntime cannot be imported: no numpy",
            "pip install --force-reinstall --no-deps onnxruntime==1.31.1",
        ),
        (
            "mixed CUDA",
            gpu_machine(nvidia_cublas_cu12="12.6", nvidia_cudnn_cu12="9.5", nvidia_cublas="13.10"),
            "CUDA 12 and 13 are both installed: onnxruntime-gpu 1.31.1 needs CUDA 13",
            "pip uninstall -y nvidia-cublas-cu12 nvidia-cudnn-cu12",
        ),
        (
            "mixed CUDA",
            gpu_machine(nvidia_cublas_cu12="12.6", torch="2.13.0+cu126"),
            "torch 2.13.0+cu126 needs CUDA 12",
            "pip uninstall -y torch nvidia-cublas-cu12, then install torch for CUDA 13",
        ),
        (
            "mixed CUDA",
            dataclasses.replace(gpu_machine("12.8", nvidia_cublas_cu12="12.6"), linked_releases={}),
            "are both installed",
            "pip uninstall -y nvidia-cudnn-cu13",
        ),
        (
            "placeholder TensorRT",
            cpu_machine(tensorrt="10.13-empty", tensorrt_cu13="10.13-empty"),
            "tensorrt 10.13 is installed without libnvinfer",
            "pip uninstall -y tensorrt tensorrt-cu13, "
            "then install TensorRT from NVIDIA: its own index, archive or JetPack",
        ),
        (
            "TensorRT not in environment",
            dataclasses.replace(cpu_machine(), loadable_tensorrt=("10",)),
            "the system has libnvinfer.so.10",
            "create the environment again: python3 -m venv --system-site-packages .venv",
        ),
        (
            "old driver",
            gpu_machine("12.4", on_cuda=MISSING_LIBRARY, on_tensorrt=MISSING_LIBRARY),
            "the driver supports CUDA 12.4, but ONNX Runtime's CUDA provider needs CUDA 13",
            "update the NVIDIA driver to one that supports CUDA 13",
        ),
        (
            "TensorRT version mismatch",
            dataclasses.replace(gpu_machine(on_tensorrt=MISSING_LIBRARY), loadable_tensorrt=("11",)),
            "ONNX Runtime's TensorRT provider needs libnvinfer.so.10, but TensorRT 11 is installed",
            "pip install 'tensorrt==10.*'; deploytool's own engines do not need it",
        ),
        (
            "CPU fallback",
            dataclasses.replace(gpu_machine(on_cuda=MISSING_LIBRARY, on_tensorrt=MISSING_LIBRARY), gpus=(), cuda=""),
            "TensorrtExecutionProvider is listed but cannot start: no CUDA GPU responds",
            "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime, "
            "or install the NVIDIA driver if there is a GPU",
        ),
        (
            "CPU fallback",
            gpu_machine(on_cuda=MISSING_LIBRARY, on_tensorrt=MISSING_LIBRARY),
            f"CUDAExecutionProvider is listed but does not start: {MISSING_LIBRARY}",
            "pip install --upgrade --force-reinstall 'onnxruntime-gpu[cuda,cudnn]'",
        ),
        (
            "CPU fallback",
            gpu_machine(on_tensorrt=MISSING_LIBRARY),
            f"TensorrtExecutionProvider is listed but does not start: {MISSING_LIBRARY}",
            "pip install 'tensorrt==10.*', or use CUDAExecutionProvider, which starts",
        ),
        (
            "unused GPU",
            dataclasses.replace(
                gpu_machine(), providers=(Provider(CPU, True),), linked_releases={}, loadable_tensorrt=()
            ),
            "NVIDIA GeForce RTX 4090 is present, but this ONNX Runtime has no CUDA provider",
            "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'onnxruntime-gpu[cuda,cudnn]'",
        ),
        (
            "unused GPU",
            dataclasses.replace(cpu_machine(), processor="aarch64", gpus=(ORIN,), cuda="12.6"),
            "Orin is present",
            "pip uninstall -y onnxruntime, then install JetPack's onnxruntime-gpu",
        ),
    ],
)
def test_a_trap_has_a_problem_and_a_remedy(name: str, inventory: Inventory, problem: str, remedy: str) -> None:
    trap = next(trap for trap in traps.find_traps(inventory) if trap.name == name)
    assert problem in trap.problem
    assert trap.remedy == remedy


def test_a_tensorrt_outside_the_loader_path_is_not_a_version_mismatch() -> None:
    first, *_ = traps.find_traps(gpu_machine(on_tensorrt=MISSING_LIBRARY, tensorrt="10.16.1"))
    assert first.name == "TensorRT not loadable"
    assert "LD_LIBRARY_PATH" in first.remedy


@pytest.mark.parametrize(
    ("name", "version", "major"),
    [
        ("nvidia-cudnn-cu12", "9.5", "12"),
        ("nvidia-cublas", "13.10.0.1", "13"),
        ("nvidia-cufft", "12.0", ""),  # its version is not that of CUDA
        ("torch", "2.13.0+cu126", "12"),
        ("torch", "2.13.0+cpu", ""),
        ("tensorrt-cu13", "10.16", "13"),
        ("nvidia-nccl-cu13", "2.28", "13"),
    ],
)
def test_which_cuda_a_distribution_is_for(name: str, version: str, major: str) -> None:
    assert traps.cuda_of(name, version) == major
