"""The description of the HTTP interface: complete, valid, and what the service does (schemathesis asks it)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import httpx
import pytest
from running_service import Running, running_service

from fakeface_jax.server.service_config import Limits, ServiceConfig

_CHECKS = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    config = ServiceConfig(limits=Limits(image_bytes=2**20, video_bytes=2**20, idle=2.0))
    with running_service(tmp_path_factory.mktemp("state"), config) as running:
        yield running


@pytest.fixture(scope="module")
def description(service: Running) -> dict:
    return httpx.get(f"{service.url}/openapi.json", trust_env=False).json()


def test_every_operation_says_what_it_does_and_how_it_fails(description: dict) -> None:
    for path, operations in description["paths"].items():
        for method, operation in operations.items():
            where = f"{method} {path}"
            assert operation["summary"], where
            assert operation.get("description"), where
            for status, answer in operation["responses"].items():
                assert answer["description"], (where, status)
                if int(status) >= 400 and path != "/readyz":
                    assert list(answer["content"]) == ["application/problem+json"], (where, status)


def test_every_reference_leads_somewhere(description: dict) -> None:
    names = set(description["components"]["schemas"])

    def check(part: object) -> None:
        if isinstance(part, dict):
            if isinstance(part.get("$ref"), str):
                assert part["$ref"].startswith("#/components/schemas/")
                assert part["$ref"].rsplit("/", 1)[-1] in names, part["$ref"]
            for value in part.values():
                check(value)
        elif isinstance(part, list):
            for value in part:
                check(value)

    check(description)
    assert {"Report.image", "Report.video", "JobData", "ProblemDetails"} <= names


def test_requests_made_from_the_description_are_answered_as_it_says(service: Running) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of schemathesis and hypothesis themselves
        import hypothesis
        import schemathesis

        schema = schemathesis.openapi.from_url(f"{service.url}/openapi.json")
        checks = schemathesis.checks.CHECKS.get_by_names(_CHECKS)
        asked: dict[str, int] = {}
        for result in schema.get_all_operations():
            operation = result.ok()
            if operation.path.endswith("/events"):
                continue  # of a stream without end

            @hypothesis.given(case=operation.as_strategy())
            @hypothesis.settings(
                max_examples=8,
                deadline=None,
                derandomize=True,
                database=None,
                suppress_health_check=list(hypothesis.HealthCheck),
            )
            def ask(case: schemathesis.Case) -> None:
                answer = case.call(timeout=30)
                asked[f"{case.method} {case.path}"] = asked.get(f"{case.method} {case.path}", 0) + 1
                case.validate_response(answer, checks=checks)

            ask()
    assert len(asked) >= 15
    assert sum(asked.values()) >= 100
    assert service.state.problems() == []
