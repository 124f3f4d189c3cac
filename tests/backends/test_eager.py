from __future__ import annotations

import pytest
import torch
from torch import nn

from deploytool.backends import eager
from deploytool.errors import StageFailed
from tests.conftest import TINY


@pytest.mark.filterwarnings("ignore")  # torch has deprecated its quantisation
def test_a_model_that_torch_has_quantised_is_told_what_to_return() -> None:
    quantised = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(3, 3)))  # type: ignore[no-untyped-call]  # torch gives it no types
    with pytest.raises(StageFailed, match=r"in its state: .*_packed_params") as raised:
        eager.check_state(quantised.state_dict(), TINY)
    assert "before torch quantised it, and add --precision int8" in raised.value.remedy
