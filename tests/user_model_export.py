"""Exports models of tests/user_models, and collects the checks that failed."""

from __future__ import annotations

from collections.abc import Callable

from deploytool.pipeline.recipe import PIPELINE
from deploytool.results.report import Report
from deploytool.spec import Stage
from tests.conftest import ROOT

OWN = ROOT / "tests" / "user_models"
ARCHITECTURES = {
    "residual:make": ["3x32x32"],
    "inception:Inception": ["3x32x32"],
    "dense:DenseNet": ["3x32x32"],
    "unet:UNet": ["3x32x32"],
    "squeeze_excite:make": ["3x32x32"],
    "vit:ViT": ["3x32x32"],
    "recurrent:Reader": ["3x32x48"],
    "two_inputs:Captioned": ["image=3x32x32", "tokens=16:int64:1000"],
    "two_outputs:Detector": ["3x32x32"],
    "convolutional:Sharpen": ["image=3xHxW"],
}
WITHOUT_ENGINE = [stage for stage in PIPELINE if stage != Stage.BUILD]
Walk = Callable[..., Report]


def failures(written: Report) -> dict[str, set[str]]:
    """The references that the failed checks of each stage were compared with."""
    failed: dict[str, set[str]] = {}
    for comparison in written.comparisons:
        for check in comparison.checks:
            if check.broken:
                failed.setdefault(comparison.stage, set()).add(check.against)
    return failed
