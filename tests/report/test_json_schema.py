"""The published JSON Schemas match the dataclasses, and reports and sweeps satisfy them."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from jsonschema import Draft202012Validator

from deploytool import serde
from deploytool.report import json_schema
from deploytool.results import report, sweep
from tests.report import sweeps, variants
from tests.report.variants import written

PROGRAM = "from deploytool.report import json_schema; print(json_schema.{function}(), end='')"
COMMAND = f'python -c "{PROGRAM}" > deploytool/report/{{file}}'
SCHEMAS = {json_schema.FILE: "generate", json_schema.SWEEP_FILE: "generate_sweep"}


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    return Draft202012Validator(json.loads(json_schema.published()))


def report_document(run: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(variants.report_path(run).read_text(encoding="utf-8"))
    return document


@pytest.mark.parametrize(("file", "function"), SCHEMAS.items())
def test_the_published_schema_matches_the_dataclasses(file: str, function: str) -> None:
    generated = getattr(json_schema, function)()
    assert json_schema.published(file) == generated, f"regenerate it: {COMMAND.format(function=function, file=file)}"


def test_the_schema_of_a_sweep_accepts_sweeps_and_nothing_else() -> None:
    document = json.loads(json_schema.published(json_schema.SWEEP_FILE))
    Draft202012Validator.check_schema(document)
    assert document["$id"] == "urn:deploytool.sweep:1"
    validator = Draft202012Validator(document)
    written: Any = json.loads(serde.text(sweeps.sweep()))
    validator.validate(written)
    assert {each["state"] for each in written["cells"]} > {"passed", "failed", "refused"}
    assert document["$defs"]["Sweep"]["properties"]["schema"] == {"const": sweep.SCHEMA}
    for change in ({"state": "fine"}, {"seconds": "1"}, {"unknown_field": 1}):
        with pytest.raises(jsonschema.ValidationError):
            validator.validate({**written, "cells": [written["cells"][0] | change]})


def test_it_is_a_valid_schema_with_the_version_of_the_report() -> None:
    document = json.loads(json_schema.published())
    Draft202012Validator.check_schema(document)
    assert document["$id"] == "urn:deploytool.report:5"
    assert document["$defs"]["Report"]["properties"]["schema"] == {"const": report.SCHEMA}


@pytest.mark.parametrize("file", SCHEMAS)
def test_it_is_in_the_package(file: str) -> None:
    assert (resources.files("deploytool.report") / file).is_file()


def test_a_real_report_satisfies_it(validator: Draft202012Validator, finished: Path, failing: Path) -> None:
    validator.validate(report_document(finished))
    validator.validate(report_document(failing))


@pytest.mark.parametrize(
    "change", [variants.broken, variants.slow, variants.weak, variants.flipped, variants.pending, variants.hostile]
)
def test_every_outcome_of_a_run_satisfies_it(validator: Draft202012Validator, run_copy: Path, change: Any) -> None:
    validator.validate(report_document(variants.rewrite(run_copy, change(written(run_copy)))))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("schema",), "deploytool.report/1"),
        (("batch",), "1"),
        (("comparisons", 0, "checks", 0, "parity", "max_error"), None),
        (("comparisons", 0, "unknown_field"), 1),
        (("engines", 0, "layers"), {"HALF": "all"}),
    ],
)
def test_a_wrong_value_is_rejected(
    validator: Draft202012Validator, finished: Path, path: tuple[str | int, ...], value: object
) -> None:
    document: Any = report_document(finished)
    parent = document
    for step in path[:-1]:
        parent = parent[step]
    parent[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(document)


@pytest.mark.parametrize("name", ["model", "comparisons", "options"])
def test_a_missing_field_is_rejected(validator: Draft202012Validator, finished: Path, name: str) -> None:
    document = report_document(finished)
    del document[name]
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(document)


def test_every_definition_is_described() -> None:
    for name, definition in json.loads(json_schema.published())["$defs"].items():
        assert definition["description"], name
