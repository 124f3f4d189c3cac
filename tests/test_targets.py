from __future__ import annotations

from dataclasses import replace

import pytest

from deploytool import targets
from deploytool.errors import BadInput
from deploytool.host import machine
from deploytool.host.machine import Gpu
from deploytool.spec import Decision, Precision, TargetPlan

RTX, FULL = "tensorrt-rtx", "tensorrt"


def fake_machine(monkeypatch: pytest.MonkeyPatch, installed: tuple[str, ...], *gpus: Gpu) -> None:
    monkeypatch.setattr(machine, "version", lambda name: "1.0" if name in installed else None)
    monkeypatch.setattr(machine, "gpus", lambda: gpus)


def verdicts(*names: str) -> dict[str, str]:
    return {decision.target: decision.verdict for decision in targets.plan_engines(names)}


def test_without_a_gpu_tensorrt_rtx_builds_for_the_capabilities_it_supports(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_machine(monkeypatch, (RTX, FULL))
    assert targets.flavour() == "tensorrt_rtx"
    here = {name for name, verdict in verdicts(*targets.TARGETS, "this").items() if verdict == TargetPlan.HERE}
    assert here == {"rtx20", "a100", "rtx30", "rtx40", "rtx50", "gb10"}
    by_tensorrt = ("orin", "thor", "h100", "h200", "b200", "b300")
    assert verdicts(*by_tensorrt) == dict.fromkeys(by_tensorrt, TargetPlan.ON_DEVICE)
    assert verdicts("this") == {"this": TargetPlan.NOT_SERVED}


def test_with_a_gpu_tensorrt_builds_for_that_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_machine(monkeypatch, (FULL,), Gpu("NVIDIA H200", "9.0"))
    assert targets.flavour() == "tensorrt"
    (decision,) = targets.plan_engines(())
    assert (decision.target, decision.verdict, decision.capability) == ("this", TargetPlan.HERE, "9.0")
    assert verdicts("h200", "h100", "rtx40") == {
        "h200": TargetPlan.HERE,
        "h100": TargetPlan.HERE,
        "rtx40": TargetPlan.ON_DEVICE,
    }


def test_tensorrt_rtx_does_not_build_for_an_unsupported_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_machine(monkeypatch, (RTX,), Gpu("NVIDIA H200", "9.0"))
    assert verdicts("this", "h200") == {"this": TargetPlan.NOT_SERVED, "h200": TargetPlan.ON_DEVICE}
    fake_machine(monkeypatch, (RTX,), Gpu("NVIDIA L4", "8.9"))
    assert verdicts("this", "rtx40") == {"this": TargetPlan.HERE, "rtx40": TargetPlan.HERE}


def test_with_nothing_installed_nothing_is_built_here(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_machine(monkeypatch, ())
    assert targets.flavour() is None
    assert set(verdicts(*targets.TARGETS).values()) == {TargetPlan.ON_DEVICE}
    assert targets.engines(targets.plan_engines(tuple(targets.TARGETS))) == ()


def test_every_decision_has_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    for installed in ((), (RTX,), (FULL,), (RTX, FULL)):
        for gpus in ((), (Gpu("NVIDIA H200", "9.0"),), (Gpu("NVIDIA L4", "8.9"),)):
            fake_machine(monkeypatch, installed, *gpus)
            assert all(decision.why for decision in targets.plan_engines((*targets.TARGETS, "this")))


def test_the_default_is_one_portable_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_machine(monkeypatch, (RTX,))
    (plan,) = targets.engines(targets.plan_engines(()))
    assert (plan.file, plan.flavour, plan.capabilities) == ("model.plan", "tensorrt_rtx", ())


def test_turing_gets_a_separate_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_machine(monkeypatch, (RTX,))
    plans = targets.engines(targets.plan_engines(("rtx20", "rtx40", "rtx30", "rtx40", "orin")))
    assert [(plan.file, plan.capabilities) for plan in plans] == [
        ("model.plan", ("8.6", "8.9")),
        ("engine_2.plan", ("7.5",)),
    ]


def test_the_error_for_an_unknown_target_suggests_the_closest_one() -> None:
    with pytest.raises(BadInput, match="there is no target 'rtx41'") as caught:
        targets.plan_engines(("rtx41",))
    assert "did you mean rtx4" in caught.value.remedy


@pytest.mark.parametrize(
    ("precision", "refused"),
    [
        (Precision.FP32, set()),
        (Precision.FP16, set()),
        (Precision.BF16, {"rtx20"}),
        (Precision.FP8, {"rtx20", "a100", "rtx30", "orin"}),
    ],
)
def test_a_target_without_a_precision_is_refused_with_the_reason(precision: Precision, refused: set[str]) -> None:
    for name, decision in zip(targets.TARGETS, targets.plan_engines(tuple(targets.TARGETS)), strict=True):
        if name not in refused:
            targets.check_precision([decision], precision)
            continue
        with pytest.raises(BadInput, match=f"target {name}: compute capability .* has no {precision.upper()}, which"):
            targets.check_precision([decision], precision)


def test_of_targets_that_nobody_named_one_must_have_the_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_machine(monkeypatch, (RTX,))
    decisions = targets.plan_engines(())
    targets.check_precision(decisions, Precision.FP8, named=False)
    (plan,) = targets.engines(decisions)
    narrowed = targets.in_precision(plan, Precision.FP8)
    assert narrowed is not None
    assert (narrowed.file, narrowed.capabilities) == ("model.plan", ("8.9", "12.0", "12.1"))
    assert targets.in_precision(plan, Precision.INT8) is plan
    assert targets.in_precision(replace(plan, capabilities=("7.5",)), Precision.FP8) is None
    older = [decision for decision in decisions if decision.target in ("a100", "rtx30")]
    with pytest.raises(BadInput, match=r"target a100: compute capability 8\.0 has no FP8"):
        targets.check_precision(older, Precision.FP8, named=False)


def test_a_target_that_is_not_served_has_every_precision() -> None:
    targets.check_precision([Decision(targets.THIS, TargetPlan.NOT_SERVED, "")], Precision.BF16)
