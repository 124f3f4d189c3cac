"""Campaign: faulty and sound INT8 graphs in bundles, on the device; `python -m tests.int8.bundles FOLDER --seeds 2`.

Small zoo models with random weights are exported with INT8 and packed. Sound graphs of every form are proved in ONNX
Runtime and OpenVINO: a refusal is a false alarm. Then the graph is replaced by one with a fault, with a digest that
fits, and the bundle verified: it must be served by FP32, with a reason. The first of each kind of fault is run in child
processes, as `verify` starts them, and the others in this process. How many faults another rule would find is counted
too: twice the INT8 graph's own error as the tolerance against FP64.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path

import onnx
import pytest

from deploytool.backends import onnxruntime
from deploytool.bundle.int8 import X86_FEATURES
from deploytool.bundle.manifest import Manifest, describe_file, read_manifest, write_manifest
from deploytool.data import golden
from deploytool.data.golden import Arrays
from deploytool.device import environment, messages, probe, verify, worker
from deploytool.device.candidates import CPU_TIERS, Tier
from deploytool.device.probe import ProbeResult
from deploytool.errors import DeployError
from deploytool.host import machine
from deploytool.loading.stage_inputs import StageInputs
from deploytool.parity import int8_answers, metrics
from deploytool.parity.replay import replay
from deploytool.precision.int8 import calibrated_graphs, quantize
from deploytool.precision.int8.calibration import Method
from deploytool.results.artifact import Kind
from deploytool.results.int8_forms import Form
from deploytool.results.report import Limits
from tests.int8 import packed, planted_bundles
from tests.power import pictures
from tests.power.models import small_zoo

MODELS = ("mobilenet_v1_cifar", "shufflenet_g1_x0_25", "squeezenet1_1", "mixnet_s")
FORMS = (Form.U8S7, Form.U8S8, Form.S8S8)
WITH_VNNI = replace(environment.detect(), features=("avx512_vnni",))  # our sessions add without saturation anyway
SATURATING = (sys.executable, "-m", "tests.int8.saturating_worker")
TRUNCATED, OTHER, SATURATED, NO_FEATURE = "truncated", "other graph", "saturating kernels", "form for VNNI without VNNI"


@dataclass(frozen=True)
class Outcome:
    """One verification: what was planted, what INT8 was said to be, and what served; `by_error` is the other rule's."""

    model: str
    kind: str
    tier: str
    passed: bool
    served: str
    reason: str
    by_error: bool | None = None
    error: float | None = None


def graph_path(folder: Path) -> Path:
    return folder / next(each.path for each in read_manifest(folder).int8 if each.form is not Form.TENSORRT)


def put(folder: Path, graph: bytes, form: Form, answers: Arrays | None = None, limits: Limits | None = None) -> None:
    """Replaces the INT8 graph of a bundle, with the digests that fit; its golden answers too if they are given."""
    manifest, path = read_manifest(folder), graph_path(folder)
    path.write_bytes(graph)
    (entry,) = (each for each in manifest.int8 if each.form is not Form.TENSORRT)
    stated = replace(entry, form=form, x86_features=X86_FEATURES[form])
    if answers is not None and limits is not None:
        golden.write_answers(folder / entry.answers, answers)
        stated = replace(stated, limits=limits)
    int8 = tuple(stated if each is entry else each for each in manifest.int8)
    files = tuple(describe_file(folder, file.path, file.role) for file in manifest.files)
    write_manifest(folder, replace(manifest, int8=int8, files=files))


@contextmanager
def in_this_process() -> Iterator[None]:
    """Probes without child processes, whose start takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probe, "run_worker", lambda request, **_: worker._try(request))
        yield


def quantised(inputs: StageInputs, form: Form) -> bytes:
    """The INT8 graph of a run in another form."""
    base = calibrated_graphs.read(inputs.fp32_graph().path, inputs.latest(Kind.RANGES).path)[0]
    ranges = base.table.ranges(Method.PERCENTILE, symmetric=False)
    return bytes(quantize.quantize(base.graph, ranges, form).SerializeToString())


def int8_results(folder: Path, here: environment.Environment, child: Sequence[str] = probe.WORKER) -> list[ProbeResult]:
    """The result of each INT8 candidate on the CPU."""
    checked = verify.check_integrity(folder)
    prober = partial(probe.probe, folder=folder, manifest=checked.manifest, seconds=0.0, worker=child)
    found = verify.run_candidates(checked, here)
    return [prober(each) for each in found if each.tier in CPU_TIERS and each.is_int8]


def sound(model: str, inputs: StageInputs, bundle: Path, work: Path) -> Iterator[Outcome]:
    """Every form of the graph with answers of its own, in each runtime."""
    folder = _copy(bundle, work)
    sample = inputs.golden()
    for form in FORMS:
        graph = onnx.load_from_string(quantised(inputs, form))
        answers = int8_answers.record(graph, sample.inputs)
        limits = int8_answers.limits(graph, answers, sample)
        few = {name: array[: read_manifest(folder).golden.cases] for name, array in answers.items()}
        put(folder, bytes(graph.SerializeToString()), form, few, limits)
        with in_this_process():
            results = int8_results(folder, WITH_VNNI)
        for result in results:
            yield _outcome(model, f"sound {form}", result, str(result.tier))


def _outcome(model: str, kind: str, result: ProbeResult, served: str, by_error: bool | None = None) -> Outcome:
    error = result.trial.check.parity.max_error if result.trial else None
    return Outcome(model, kind, str(result.tier), result.passed, served, result.reason, by_error, error)


def faulty(model: str, bundle: Path, others: Sequence[Path], each: int, work: Path) -> Iterator[Outcome]:
    """Verifications of the bundle with one fault after the other; `others` are bundles of other weights."""
    folder = _copy(bundle, work)
    clean, graph = read_manifest(folder), graph_path(folder).read_bytes()
    (entry,) = (one for one in clean.int8 if one.form is not Form.TENSORRT)
    for number, kind in enumerate(planted_bundles.FAULTS):
        for seed in range(each):
            put(folder, planted_bundles.planted(graph, kind, 100 * number + seed), entry.form)
            with nullcontext() if not seed else in_this_process():
                yield verified(model, kind, folder)
    for other in others:
        put(folder, graph_path(other).read_bytes(), entry.form)
        with in_this_process():
            yield verified(model, OTHER, folder)
    for share in (0.3, 0.9, 0.999):
        put(folder, graph[: int(len(graph) * share)], entry.form)
        yield verified(model, TRUNCATED, folder)


def saturating(model: str, inputs: StageInputs, bundle: Path, work: Path) -> Iterator[Outcome]:
    """The form for VNNI on this machine: refused by its features, and by its answers where kernels saturate."""
    folder = _copy(bundle, work)
    sample, cases = inputs.golden(), read_manifest(folder).golden.cases
    for form in (Form.U8S8, Form.S8S8):
        graph = onnx.load_from_string(quantised(inputs, form))
        answers = int8_answers.record(graph, sample.inputs)
        few = {name: array[:cases] for name, array in answers.items()}
        put(folder, bytes(graph.SerializeToString()), form, few, int8_answers.limits(graph, answers, sample))
        yield verified(model, NO_FEATURE, folder)
        for result in int8_results(folder, WITH_VNNI, SATURATING):
            if result.tier is Tier.ORT_CPU:
                yield _outcome(model, SATURATED, result, "")


def verified(model: str, kind: str, folder: Path) -> Outcome:
    """What `verify` says of a bundle with ONNX Runtime, and what the other rule says of its graph."""
    here = replace(environment.detect(), openvino="")
    checked = verify.check_integrity(folder)
    prober = partial(probe.probe, folder=folder, manifest=checked.manifest, seconds=0.0)
    result = verify.verify(checked, here, prober)
    (int8,) = (each for each in result.tried if each.int8)
    last = [*messages.verification_lines(result, every=False)][-1]
    return _outcome(model, kind, int8, last, _by_error(folder, checked.manifest))


def _by_error(folder: Path, manifest: Manifest) -> bool:
    """Whether twice the INT8 graph's own error, as the tolerance against FP64, lets the graph of a bundle pass."""
    (entry,) = (each for each in manifest.int8 if each.form is not Form.TENSORRT)
    sample = golden.read(folder / manifest.golden.path)
    own = metrics.compare(golden.read_answers(folder / entry.answers), sample.reference)
    try:
        with onnxruntime.start(folder / entry.path) as session:
            got = metrics.compare(replay(session, sample.inputs), sample.reference)
    except (DeployError, ValueError):
        return False
    rms, own_rms = (10 ** (-each.snr_db / 20) for each in (got, own))
    return got.max_error <= 2 * own.max_error and rms <= 2 * own_rms and not got.invalid


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="for runs and bundles; results are added to results.jsonl in it")
    parser.add_argument("--seeds", type=int, default=2, help="weights of each model")
    parser.add_argument("--each", type=int, default=4, help="places of each fault in each bundle")
    parser.add_argument("--models", nargs="*", default=MODELS)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    for name in given.models:
        runs = [_run(name, seed, given.folder) for seed in range(given.seeds)]
        bundles = [_bundle(inputs, given.folder / f"{name}_{seed}_packed") for seed, inputs in enumerate(runs)]
        for seed, (inputs, bundle) in enumerate(zip(runs, bundles, strict=True)):
            model, others = f"{name} {seed}", [each for each in bundles if each != bundle]
            work = given.folder / "work"
            of_model = (
                sound(model, inputs, bundle, work),
                faulty(model, bundle, others, given.each, work),
                saturating(model, inputs, bundle, work),
            )
            for outcome in chain(*of_model):
                with (given.folder / "results.jsonl").open("a") as file:
                    file.write(json.dumps(asdict(outcome)) + "\n")
    _print([Outcome(**json.loads(line)) for line in (given.folder / "results.jsonl").read_text().splitlines()])


def _run(name: str, seed: int, folder: Path) -> StageInputs:
    model = small_zoo(name)
    return packed.run(model, seed, folder / f"{name}_{seed}", pictures.crops(48, model.preprocessing))


def _bundle(inputs: StageInputs, folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    return packed.acceptable(inputs, folder)


def _copy(bundle: Path, to: Path) -> Path:
    shutil.rmtree(to, ignore_errors=True)
    return Path(shutil.copytree(bundle, to))


def _print(outcomes: list[Outcome]) -> None:
    print(f"{machine.cpu()}, INT8 saturates: {machine.saturates_int8()}; {onnxruntime.fingerprint()}")
    found, total, other = Counter[str](), Counter[str](), Counter[str]()
    for outcome in outcomes:
        total[outcome.kind] += 1
        found[outcome.kind] += not outcome.passed
        other[outcome.kind] += outcome.by_error is False
    for kind, count in total.items():
        print(f"{kind:28} refused {found[kind]:4} of {count}; by twice the error {other[kind]}")
    for outcome in outcomes:
        if outcome.passed is not outcome.kind.startswith("sound"):
            print(f"wrong: {outcome}")


if __name__ == "__main__":
    main()
