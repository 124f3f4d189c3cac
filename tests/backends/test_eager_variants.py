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


@pytest.mark.parametrize("form", [eager_variants.EAGER, eager_variants.CHANNELS_LAST])
def test_a_form_answers_as_the_model_itself(finished: Path, sample: Golden, form: str) -> None:
    with eager_variants.start(weights(finished), form=form) as session:
        for cases in (4, 1):
            given = {name: array[:cases] for name, array in sample.inputs.items()}
            expected = {name: array[:cases] for name, array in sample.outputs.items()}
            assert metrics.compare(session(**given), expected).max_error < 1e-5


def test_fp16_takes_and_gives_fp32(finished: Path, sample: Golden) -> None:
    with eager_variants.start(weights(finished), form=eager_variants.FP16) as session:
        answers = session(**sample.inputs)
    assert {array.dtype for array in answers.values()} == {np.dtype(np.float32)}
    error = metrics.compare(answers, sample.outputs).max_error
    assert 1e-6 < error < 0.05


def test_a_form_that_nobody_knows(finished: Path) -> None:
    with pytest.raises(BadInput, match="no form 'warp'"), eager_variants.start(weights(finished), form="warp"):
        pass


def test_threads_are_given_back() -> None:
    usual = eager.thread_count()
    with eager.using_threads(usual + 1):
        assert eager.thread_count() == usual + 1
    assert eager.thread_count() == usual


@pytest.mark.gpu
@pytest.mark.parametrize("form", eager_variants.FORMS)
def test_a_form_on_a_gpu_notes_its_own_time(finished: Path, sample: Golden, form: str) -> None:
    with eager_variants.start(weights(finished), "cuda", form) as session:
        assert isinstance(session, eager_variants.GpuSession)
        for _ in range(3):
            answers = session(**sample.inputs)
    assert metrics.compare(answers, sample.outputs).max_error < (0.05 if form == eager_variants.FP16 else 1e-4)
    assert len(session.gpu_ms) == len(session.enqueue_ms) == 3
    assert min(session.gpu_ms) > 0
