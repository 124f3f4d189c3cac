"""Whether the checks of a sound run stay silent: `make power`.

Fresh models of the zoo, and models of long sums (user_models/long_sums.py), are exported with fresh weights by either
exporter. Each is judged with one thread and with two, at batches of 1, 2, 4 and 8: a check that fails is a false alarm,
unless it is one of FP16, and FP16 moves the answers by more than the coarsest tolerance, by its noise or by the very
error. How near the others came to failing is told too.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import torch

from deploytool.data import golden
from deploytool.data.golden import Floor
from deploytool.loading import catalog
from deploytool.loading.stage_inputs import StageInputs
from deploytool.parity import checks as parity_checks
from deploytool.parity import noise
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
SUMS = [(head, "torchscript") for head in HEADS if head not in ("headed", "told apart")] + [("headed", "dynamo")]
THREADS, BATCHES = (1, 2), (1, 2, 4, 8)


@dataclass(frozen=True)
class Judgement:
    """One run judged: which, what failed, whether FP16 is too coarse for it, and the largest share of a tolerance."""

    which: str
    failed: str
    coarse: bool
    share: float


def of_zoo(number: int) -> Job:
    """One family after the other, each by either exporter in turn."""
    exporter = ("torchscript", "dynamo")[number // len(MODELS) % 2]
    return Job(small(MODELS[number % len(MODELS)], 1000 + number), Options(seed=1000 + number, exporter=exporter))


def of_sums(number: int) -> Job:
    """One model of long sums after the other, each in another size with other weights when it comes again."""
    (head, exporter), again = SUMS[number % len(SUMS)], number // len(SUMS)
    side = SIDES[again % len(SIDES)]
    made = catalog.find(
        f"{OWN}/long_sums.py:make",
        (Tensor("image", ("batch", 3, side, side)),),
        {"head": head, "seed": again, "side": side},
    )
    return Job(replace(made, name=head.replace(" ", "_")), Options(seed=2000 + again, exporter=exporter))


def judgements(job: Job, home: Path) -> Iterator[Judgement]:
    """The judgements of one fresh model."""
    given = StageInputs(tuple(runner.run(job, RECIPE, home)))
    sample = golden.read(given.latest(Kind.GOLDEN).path)
    own = noise.NoiseAtSizes(given.latest(Kind.WEIGHTS).path, {}, sample.noise).edge
    for threads, batch in product(THREADS, BATCHES):
        torch.set_num_threads(threads)
        os.sched_setaffinity(0, range(threads))  # ONNX Runtime takes as many threads as there are processors
        judged = Job(job.model, Options(batch=Range(1, batch, batch)))
        steps = parity_checks.graph_comparisons("cpu", judged, given) + parity_checks.fp16_comparisons(given)
        found = list(
            parity_checks.judge(
                steps, parity_checks.reference_answers(judged, given, sample), sample, [], Probes({}), judged, own
            )
        )
        failed = [line for comparison in found for line in verdict.failed_comparison_lines(comparison)]
        which = f"{job.model.name}, seed {job.options.seed}, {job.options.exporter}, {threads} threads, batch {batch}"
        checks = [(step, check) for step, comparison in zip(steps, found, strict=True) for check in comparison.checks]
        coarse = all(_excused(step, check, sample.noise.fp16) for step, check in checks if check.broken)
        yield Judgement(which, "; ".join(failed), coarse, max(_share(check) for _, check in checks))


def _excused(step: PlannedComparison, check: Check, noise: Floor) -> bool:
    """Whether a check failed rightly: in FP16, which moves the answers by more than any tolerance."""
    rounded = step.half and not (step.exact and check.against == step.before)  # as converted, nothing is
    return rounded and max(noise.max_error, check.parity.max_error) > COARSEST


def _share(check: Check) -> float:
    """How much of its tolerance a check takes, in the part that takes most."""
    shares = []
    for each in check.part_checks:
        shares += [each.parity.max_error / each.tolerance.max_error]
        shares += [10 ** ((each.tolerance.snr_db - each.parity.snr_db) / 20)]
    return max(shares)


def main() -> None:
    """Prints every false alarm, and how many runs there were."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=138, help="fresh models, each judged eight times")
    parser.add_argument("--sums", type=int, default=112, help="fresh models of long sums, as many times")
    asked = parser.parse_args()
    jobs = [*map(of_zoo, range(asked.models)), *map(of_sums, range(asked.sums))]
    runs: list[Judgement] = []
    with tempfile.TemporaryDirectory() as folder:
        for number, job in enumerate(jobs):
            for judged in judgements(job, Path(folder) / str(number)):
                runs.append(judged)
                if judged.failed:
                    print(
                        f"{judged.which}{', FP16 is too coarse' if judged.coarse else ''}: {judged.failed}", flush=True
                    )
    failed = [judged for judged in runs if judged.failed]
    false = sum(not judged.coarse for judged in failed)
    nearest = max(judged.share for judged in runs if not judged.failed)
    print(f"{false} false alarms in {len(runs)} sound runs; the nearest took {nearest:.0%} of a tolerance")
    print(f"{len(failed) - false} refused because FP16 moves their answers by more than {COARSEST:.0%}")


if __name__ == "__main__":
    main()
