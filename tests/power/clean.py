"""Measures the false alarms of the checks on correct runs: `make power`.

The models of tests/power/models.py, and models with long sums (user_models/long_sums.py), are exported with random
weights by either exporter. Each is checked with one and two threads, at batch sizes of 1, 2, 4 and 8. A failed check is
a false alarm, except an FP16 check of a model whose FP16 noise or error exceeds the coarsest tolerance. The largest
share of a tolerance that a passing check uses is printed too.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path

import torch

from deploytool.data import golden
from deploytool.data.golden import Floor
from deploytool.loading import catalog
from deploytool.loading.stage_inputs import StageInputs
from deploytool.parity import checks as parity_checks
from deploytool.parity import metrics, noise
from deploytool.parity.checks import PlannedComparison
from deploytool.parity.intermediates import Probes
from deploytool.pipeline import runner
from deploytool.results import verdict
from deploytool.results.artifact import Kind
from deploytool.results.report import COARSEST, Check
from deploytool.spec import Job, Options, Range, Stage, Tensor
from tests.power.models import MODELS, small
from tests.user_model_export import OWN
from tests.user_models.long_sums import HEADS

RECIPE = (Stage.LOAD, Stage.GOLDEN, Stage.TORCHSCRIPT, Stage.EXPORT, Stage.SIMPLIFY, Stage.FP16)
SIDES = (64, 128, 32, 96)
SUMS = [(head, "torchscript") for head in HEADS if head not in ("headed", "cosine similarity")] + [("headed", "dynamo")]
THREADS, BATCHES = (1, 2), (1, 2, 4, 8)


@dataclass(frozen=True)
class Judgement:
    """One checked run.

    `failed`: the failed checks. `coarse`: whether FP16 is too coarse for all of them. `share`: the largest share of a
    tolerance that a check uses.
    """

    run: str
    failed: str
    coarse: bool
    share: float


def model_job(names: Sequence[str], number: int) -> Job:
    """These models in turn; the exporter changes after each pass, and with each model."""
    exporter = ("torchscript", "dynamo")[(number % len(names) + number // len(names)) % 2]
    return Job(small(names[number % len(names)], 1000 + number), Options(seed=1000 + number, exporter=exporter))


def long_sum_job(number: int) -> Job:
    """The models with long sums in turn; each pass has another input size and other weights."""
    (head, exporter), round_number = SUMS[number % len(SUMS)], number // len(SUMS)
    side = SIDES[round_number % len(SIDES)]
    model = catalog.find(
        f"{OWN}/long_sums.py:make",
        (Tensor("image", ("batch", 3, side, side)),),
        {"head": head, "seed": round_number, "side": side},
    )
    return Job(replace(model, name=head.replace(" ", "_")), Options(seed=2000 + round_number, exporter=exporter))


def check_runs(job: Job, home: Path) -> Iterator[Judgement]:
    """The judgements of one model, for all numbers of threads and batch sizes."""
    inputs = StageInputs(tuple(runner.run(job, RECIPE, home)))
    sample = golden.read(inputs.latest(Kind.GOLDEN).path)
    edge_tolerances = noise.NoiseAtSizes(inputs.latest(Kind.WEIGHTS).path, {}, sample.noise).edge
    for threads, batch in product(THREADS, BATCHES):
        torch.set_num_threads(threads)
        os.sched_setaffinity(0, range(threads))  # ONNX Runtime uses as many threads as there are processors
        batch_job = Job(job.model, Options(batch=Range(1, batch, batch)))
        steps = parity_checks.graph_comparisons("cpu", batch_job, inputs) + parity_checks.fp16_comparisons(inputs)
        answers = parity_checks.reference_answers(batch_job, inputs, sample)
        comparisons = list(parity_checks.judge(steps, answers, sample, [], Probes({}), batch_job, edge_tolerances))
        failed = [line for comparison in comparisons for line in verdict.failed_comparison_lines(comparison)]
        run = f"{job.model.name}, seed {job.options.seed}, {job.options.exporter}, {threads} threads, batch {batch}"
        pairs = zip(steps, comparisons, strict=True)
        checks = [(step, check) for step, comparison in pairs for check in comparison.checks]
        coarse = all(_is_too_coarse(step, check, sample.noise.fp16) for step, check in checks if check.broken)
        yield Judgement(run, "; ".join(failed), coarse, max(metrics.largest_share(check) for _, check in checks))


def _is_too_coarse(step: PlannedComparison, check: Check, noise: Floor) -> bool:
    """Whether a check may fail because FP16 changes the answers by more than the coarsest tolerance."""
    rounded = step.half and not (step.exact and check.against == step.before)  # the exact comparison rounds nothing
    return rounded and max(noise.max_error, check.parity.max_error) > COARSEST


def read(path: Path | None) -> dict[str, list[Judgement]]:
    """The judgements of an earlier, interrupted campaign, by model."""
    lines = path.read_text().splitlines() if path and path.is_file() else []
    models = [model for line in lines if line.endswith("}") for model in json.loads(line).items()]
    return {name: [Judgement(**judgement) for judgement in judgements] for name, judgements in models}


def main() -> None:
    """Prints every false alarm, and the number of runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=213, help="number of models, each checked eight times")
    parser.add_argument("--names", nargs="+", default=MODELS, help="the models to vary")
    parser.add_argument(
        "--sums", type=int, default=112, help="number of models with long sums, each checked eight times"
    )
    parser.add_argument("--results", type=Path, help="file of the results; models that it has are not repeated")
    arguments = parser.parse_args()
    model_jobs = [model_job(arguments.names, number) for number in range(arguments.models)]
    done = read(arguments.results)
    with tempfile.TemporaryDirectory() as folder:
        for number, job in enumerate([*model_jobs, *map(long_sum_job, range(arguments.sums))]):
            name = f"{job.model.name}, seed {job.options.seed}, {job.options.exporter}"
            if name in done:
                continue
            done[name] = list(check_runs(job, Path(folder) / str(number)))
            for judgement in done[name]:
                if judgement.failed:
                    excuse = ", FP16 is too coarse" if judgement.coarse else ""
                    print(f"{judgement.run}{excuse}: {judgement.failed}", flush=True)
            if arguments.results:
                with arguments.results.open("a") as file:
                    file.write(json.dumps({name: [asdict(judgement) for judgement in done[name]]}) + "\n")
    runs = [judgement for judgements in done.values() for judgement in judgements]
    failed = [judgement for judgement in runs if judgement.failed]
    false_alarms = sum(not judgement.coarse for judgement in failed)
    largest = max(judgement.share for judgement in runs if not judgement.failed)
    print(f"{false_alarms} false alarms in {len(runs)} correct runs")
    print(f"checks that pass use at most {largest:.0%} of a tolerance")
    print(f"{len(failed) - false_alarms} runs fail because FP16 changes their answers by more than {COARSEST:.0%}")


if __name__ == "__main__":
    main()
