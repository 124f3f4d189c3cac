"""The published schema is that of the dataclasses, and real reports satisfy it."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from jsonschema import Draft202012Validator

from deploytool.report import json_schema
from deploytool.results import report
from tests.report import variants
from tests.report.variants import written

MEND = (
    "python -c 'from deploytool.report import schema; print(schema.made(), end=\"\")' > deploytool/page/"
    + json_schema.FILE
)


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    return Draft202012Validator(json.loads(json_schema.published()))


def real(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(variants.at(run).read_text(encoding="utf-8"))
    return found


def test_the_published_schema_is_that_of_the_dataclasses() -> None:
    assert json_schema.published() == json_schema.made(), f"publish it again: {MEND}"


def test_it_is_a_schema_of_this_draft_and_bears_the_version() -> None:
    document = json.loads(json_schema.published())
    Draft202012Validator.check_schema(document)
    assert document["$id"] == "urn:deploytool.results.report:4"
    assert document["$defs"]["Report"]["properties"]["schema"] == {"const": report.SCHEMA}


def test_it_lies_in_the_package() -> None:
    assert (resources.files("deploytool.report") / json_schema.FILE).is_file()


def test_a_real_report_satisfies_it(validator: Draft202012Validator, finished: Path, failing: Path) -> None:
    validator.validate(real(finished))
    validator.validate(real(failing))


@pytest.mark.parametrize(
    "change", [variants.broken, variants.slow, variants.weak, variants.flipped, variants.pending, variants.hostile]
)
def test_so_does_every_way_a_run_may_end(validator: Draft202012Validator, run_copy: Path, change: Any) -> None:
    validator.validate(real(variants.rewrite(run_copy, change(written(run_copy)))))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("schema",), "deploytool.results.report/1"),
        (("batch",), "1"),
        (("comparisons", 0, "checks", 0, "parity", "max_error"), None),
        (("comparisons", 0, "unheard_of"), 1),
        (("engines", 0, "layers"), {"HALF": "all"}),
    ],
)
def test_another_report_does_not(
    validator: Draft202012Validator, finished: Path, place: tuple[str | int, ...], value: object
) -> None:
    told: Any = real(finished)
    inside = told
    for step in place[:-1]:
        inside = inside[step]
    inside[place[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(told)


@pytest.mark.parametrize("name", ["model", "comparisons", "choices"])
def test_a_missing_field_is_noticed(validator: Draft202012Validator, finished: Path, name: str) -> None:
    told = real(finished)
    del told[name]
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(told)


def test_every_definition_is_described() -> None:
    for name, one in json.loads(json_schema.published())["$defs"].items():
        assert one["description"], name
