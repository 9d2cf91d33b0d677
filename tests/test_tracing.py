"""Requests as spans."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from fastapi import FastAPI

from fakeface_jax.server import tracing

pytest.importorskip("opentelemetry.instrumentation.fastapi", reason="the extra [otel] is not installed")


def test_a_request_is_a_span_and_health_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    app = FastAPI()

    @app.get("/v1/jobs/{job_id}")
    def job(job_id: str) -> dict[str, str]:
        return {"id": job_id}

    @app.get("/healthz")
    def healthz() -> dict[str, str]:
        return {}

    exporter = InMemorySpanExporter()
    provider = tracing.instrument(app, exporter)

    async def ask() -> None:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            headers = {"Authorization": "Bearer ff_secret"}
            assert (await client.get("/v1/jobs/abc", headers=headers)).status_code == 200
            assert (await client.get("/healthz")).status_code == 200

    asyncio.run(ask())
    provider.shutdown()
    spans = exporter.get_finished_spans()
    assert [span.name for span in spans] == ["GET /v1/jobs/{job_id}"]
    assert "ff_secret" not in spans[0].to_json()
    assert spans[0].resource.attributes["service.name"] == "fakeface"


def test_it_is_wanted_where_an_endpoint_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    assert not tracing.wanted()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    assert tracing.wanted()
