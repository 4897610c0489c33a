"""The OpenAPI document, and whether the service keeps to it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest
import schemathesis
from helpers import Server
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.specs.openapi import checks

CHECKS = [
    schemathesis.checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
    checks.unsupported_method,
]


@pytest.fixture(scope="module")
def document(server: Server) -> dict[str, Any]:
    answer = server.client.get("/openapi.json")
    assert answer.status_code == 200
    described: dict[str, Any] = answer.json()
    return described


def examples(part: Any) -> Iterator[tuple[Any, Any]]:
    """Each schema in a part of the document, with each of its examples."""
    if isinstance(part, list):
        for each in part:
            yield from examples(each)
    elif isinstance(part, dict):
        schema = part.get("schema", part)
        shown = part.get("examples", [part["example"]] if "example" in part else [])
        for example in shown.values() if isinstance(shown, dict) else shown:
            yield schema, example["value"] if isinstance(shown, dict) else example
        for each in part.values():
            yield from examples(each)


@pytest.mark.parametrize("path", ["/predict", "/predict/batch"])
def test_predictions_name_every_status_that_they_may_answer_with(document: dict[str, Any], path: str) -> None:
    responses = document["paths"][path]["post"]["responses"]
    assert set(responses) == {"200", "400", "401", "404", "405", "413", "415", "422", "429", "500", "503"}
    for status in ("429", "503"):
        assert "Retry-After" in responses[status]["headers"]


def test_every_example_is_valid_by_its_schema(document: dict[str, Any]) -> None:
    found = list(examples({name: document[name] for name in ("paths", "components")}))
    assert len(found) > 30
    for schema, example in found:
        validator = jsonschema_rs.Draft202012Validator({**schema, "components": document["components"]})
        assert [error.message for error in validator.iter_errors(example)] == [], example


@pytest.mark.parametrize(
    ("mode", "among_answers"),
    [(schemathesis.GenerationMode.POSITIVE, {200}), (schemathesis.GenerationMode.NEGATIVE, {400, 422})],
    ids=["as described", "otherwise"],
)
def test_whatever_is_sent_the_answer_is_one_that_is_described(
    server: Server, mode: schemathesis.GenerationMode, among_answers: set[int]
) -> None:
    described = schemathesis.openapi.from_url(
        f"{server.url}/openapi.json",
        config=schemathesis.Config.from_dict({"generation": {"with-security-parameters": False}}),
    )
    answered: dict[str, set[int]] = {}
    for operation in described.get_all_operations():
        statuses = answered[operation.ok().label] = set()

        @settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
        @given(case=operation.ok().as_strategy(mode))
        def ask(case: schemathesis.Case[Any], statuses: set[int]) -> None:
            # Whatever a part of a form holds, it may be a file: a batch says of each that it is none.
            excluded = [checks.negative_data_rejection] if case.media_type == "multipart/form-data" else []
            answer = case.call_and_validate(checks=CHECKS, excluded_checks=excluded)
            statuses.add(answer.status_code)

        with contextlib.suppress(Unsatisfiable):  # what takes nothing cannot be given anything wrong
            ask(statuses=statuses)
    for predict in ("POST /predict", "POST /predict/batch"):
        assert answered[predict] >= among_answers, predict
