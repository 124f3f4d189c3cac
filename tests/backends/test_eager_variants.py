"""The eager model's variants: same outputs as the model, FP32 at the interface, times on a GPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deploytool.backends import eager, eager_variants
from deploytool.data import golden
from deploytool.data.golden import Golden
from deploytool.errors import BadInput
from deploytool.parity import metrics


@pytest.fixture
def sample(finished: Path) -> Golden:
    return golden.read(finished / "golden" / "golden.npz")


def weights(finished: Path) -> Path:
    return finished / "load" / "weights.safetensors"


@pytest.mark.parametrize("variant", [eager_variants.EAGER, eager_variants.CHANNELS_LAST])
def test_a_variant_has_the_outputs_of_the_model(finished: Path, sample: Golden, variant: str) -> None:
    with eager_variants.start(weights(finished), variant=variant) as session:
        for cases in (4, 1):
            inputs = {name: array[:cases] for name, array in sample.inputs.items()}
            expected = {name: array[:cases] for name, array in sample.outputs.items()}
            assert metrics.compare(session(**inputs), expected).max_error < 1e-5


def test_fp16_takes_and_returns_fp32(finished: Path, sample: Golden) -> None:
    with eager_variants.start(weights(finished), variant=eager_variants.FP16) as session:
        outputs = session(**sample.inputs)
    assert {array.dtype for array in outputs.values()} == {np.dtype(np.float32)}
    error = metrics.compare(outputs, sample.outputs).max_error
    assert 1e-6 < error < 0.05


def test_an_unknown_variant_is_an_error(finished: Path) -> None:
    with pytest.raises(BadInput, match="'warp'"), eager_variants.start(weights(finished), variant="warp"):
        pass


def test_the_thread_count_is_restored() -> None:
    before = eager.thread_count()
    with eager.using_threads(before + 1):
        assert eager.thread_count() == before + 1
    assert eager.thread_count() == before


@pytest.mark.gpu
@pytest.mark.parametrize("variant", eager_variants.VARIANTS)
def test_a_variant_on_a_gpu_records_its_times(finished: Path, sample: Golden, variant: str) -> None:
    with eager_variants.start(weights(finished), "cuda", variant) as session:
        assert isinstance(session, eager_variants.GpuSession)
        for _ in range(3):
            outputs = session(**sample.inputs)
    assert metrics.compare(outputs, sample.outputs).max_error < (0.05 if variant == eager_variants.FP16 else 1e-4)
    assert len(session.gpu_ms) == len(session.enqueue_ms) == 3
    assert min(session.gpu_ms) > 0
