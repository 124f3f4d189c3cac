"""Plants ten faults into calibrations of small networks and counts which are named.

    python -m tests.int8.calibration_faults --seeds 4

Every fault is planted in each network, seed and form of QDQ, in all its variants. Calibrations without a fault are
checked with each method, and a name given there is false. Only entropy may clip in earnest: whether its ranges do is
computed again.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence

import numpy as np

from deploytool.precision.int8 import calibration_checks
from deploytool.precision.int8.calibration import Method
from deploytool.precision.int8.calibration_fault import CalibrationFault, Finding
from tests.int8 import nets, planted_calibration
from tests.int8.planted_calibration import FORMS, PLANTED, Calibration


def findings(given: Calibration) -> tuple[Finding, ...]:
    cases = {"input": given.cases}
    return calibration_checks.find(
        given.source, given.quantized, given.table, given.method, cases, given.golden, given.tests
    )


def is_true(given: Calibration, finding: Finding) -> bool:
    """Whether a range of entropy loses a hundredth of the power of a tensor, on calibration or on golden cases."""
    if given.method is not Method.ENTROPY or finding.fault is not CalibrationFault.CLIPPED_OUTLIER:
        return False
    limits = given.table.ranges(given.method, symmetric=planted_calibration.symmetric(given.form))[finding.where]
    lost = []
    for inputs in (given.cases, given.golden.inputs["input"]):
        values = planted_calibration.values_of(given.source, finding.where, inputs).astype(np.float64)
        lost.append(((values.clip(limits.low, limits.high) - values) ** 2).sum() / (values**2).sum())
    return bool(max(lost) > 0.009)


def campaign(seeds: Sequence[int]) -> tuple[Counter[str], Counter[str], Counter[str]]:
    """How many of each fault were planted, how many named, and which other names were given."""
    planted, named, others = Counter[str](), Counter[str](), Counter[str]()
    for net in nets.NETS:
        for seed in seeds:
            for form in FORMS:
                for method in Method:
                    given = planted_calibration.clean(net, seed, form, method)
                    found = [finding for finding in findings(given) if not is_true(given, finding)]
                    planted[f"none, {method}"] += 1
                    named[f"none, {method}"] += not found
                    others.update(f"none, {method}: {finding.fault}" for finding in found)
                given = planted_calibration.clean(net, seed, form, Method.PERCENTILE)
                for fault, plant in PLANTED.items():
                    for faulty in plant(given):
                        names = {finding.fault for finding in findings(faulty)}
                        planted[fault] += 1
                        named[fault] += fault in names
                        others.update(f"{fault}: {name}" for name in names - {fault})
                        if fault not in names:
                            print(f"missed: {fault} in {net}, seed {seed}, {form}: {sorted(names)}")
    return planted, named, others


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=4, help="of each network")
    planted, named, others = campaign(range(parser.parse_args().seeds))
    for fault, count in planted.items():
        print(f"{fault:24} {named[fault]:4} of {count}")
    print("further names:", dict(others))


if __name__ == "__main__":
    main()
