"""Names what is wrong with a calibration, from the graphs, the table of ranges, and the data."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from onnx import ModelProto

from deploytool.data.case_digests import case_digests
from deploytool.data.golden import Arrays, Golden
from deploytool.precision.int8 import calibration, data_checks, placement_checks, range_checks
from deploytool.precision.int8.calibration import Method, Table
from deploytool.precision.int8.calibration_fault import CalibrationFault, Finding


def find(
    source: ModelProto,
    quantized: ModelProto,
    table: Table,
    method: Method,
    cases: Arrays,
    golden: Golden,
    tests: Collection[str] = (),
) -> tuple[Finding, ...]:
    """The faults of a calibration.

    `source` is the FP32 graph, `quantized` the QDQ graph made from it with the table's ranges by `method`, `cases` some
    of the calibration cases, and `tests` the digests of further cases that the result is judged by. Faults of the data,
    and a table that is not that of the graph, make wrong ranges: only without them are ranges looked at.
    """
    found = list(of_data(source, table, cases, golden, tests))
    if all(finding.fault is CalibrationFault.TEST_CASES for finding in found):
        again, judged = (
            calibration.collect(source, tuple(table.histograms), [each]) for each in (cases, golden.inputs)
        )
        found += range_checks.findings(quantized, method, table, again, judged)
    return (*found, *placement_checks.find(quantized))


def of_data(
    source: ModelProto, table: Table, cases: Arrays, golden: Golden, tests: Collection[str] = ()
) -> tuple[Finding, ...]:
    """The faults of the calibration data, and of a table that is not that of the graph and of the cases."""
    found = [*_shared(table, golden, tests), *data_checks.find(cases, golden.inputs, golden.preprocessing)]
    if reason := range_checks.stale(source, table, case_digests(cases)):
        found.append(Finding(CalibrationFault.STALE_RANGES, "", reason))
    return tuple(found)


def _shared(table: Table, golden: Golden, tests: Collection[str]) -> Iterator[Finding]:
    judged = {*case_digests(golden.inputs), *tests}
    if count := len(judged & set(table.cases)):
        reason = f"{count} of {len(set(table.cases))} calibration cases are golden or test cases"
        yield Finding(CalibrationFault.TEST_CASES, "", reason)
