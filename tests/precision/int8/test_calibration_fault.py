from __future__ import annotations

from deploytool.precision.int8 import calibration_fault
from deploytool.precision.int8.calibration_fault import CalibrationFault, Finding


def test_a_fault_of_several_places_is_one_line() -> None:
    clipped = [
        Finding(CalibrationFault.CLIPPED_OUTLIER, name, f"clips {name}") for name in ("first", "second", "third")
    ]
    found = [clipped[0], Finding(CalibrationFault.STALE_RANGES, "", "another digest"), *clipped[1:]]
    outlier, stale = calibration_fault.lines(found)
    assert outlier.endswith("its signal. first: clips first; and 2 more")
    assert stale.endswith("or other data. another digest")
