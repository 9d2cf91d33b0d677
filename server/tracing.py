"""OpenTelemetry: each request as a span, sent to where OTEL_EXPORTER_OTLP_ENDPOINT says. An extra.

Example:
    >>> if wanted():
    ...     instrument(app)
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from fakeface_jax import __version__
from fakeface_jax.errors import ConfigError

if TYPE_CHECKING:
    from fastapi import FastAPI

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_NOT_TRACED = "healthz,readyz,metrics,static/.*"


def wanted() -> bool:
    """Whether the operator names somewhere to send spans to, by the variables that OpenTelemetry defines."""
    return any(os.environ.get(name) for name in _ENDPOINTS)


def instrument(app: FastAPI, exporter: Any = None) -> Any:
    """Makes a span of each request. Health, metrics and the page's files are left out; so are headers and bodies.

    Args:
        app: the service.
        exporter: where spans go; OTLP over HTTP, set by OpenTelemetry's own variables, by default.

    Returns:
        The provider; `shutdown()` sends what waits.

    Raises:
        ConfigError: the extra is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise ConfigError(f"{_ENDPOINTS[0]} is set and needs more: pip install '.[serve,otel]'") from error
    resource = Resource.create({"service.name": "fakeface", "service.version": __version__})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(exporter or OTLPSpanExporter()))
    FastAPIInstrumentor.instrument_app(
        app, tracer_provider=provider, excluded_urls=_NOT_TRACED, exclude_spans=["receive", "send"]
    )
    return provider
