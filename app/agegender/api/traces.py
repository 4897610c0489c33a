"""Optional OpenTelemetry traces: a span for each request, with a child span for each stage of a prediction.

OpenTelemetry's own variables, such as OTEL_EXPORTER_OTLP_ENDPOINT, configure the export.
"""

from __future__ import annotations

import time

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from agegender.answers import Timings

_UNTRACED = ("/health/live", "/health/ready", "/metrics")
"""Paths that probes and scrapers request every few seconds."""


class TracesUnavailable(Exception):
    """OpenTelemetry is not installed; the message says what to do."""


class Traces:
    """Exports spans in the background. Raises TracesUnavailable."""

    def __init__(self) -> None:
        try:
            from opentelemetry import propagate, trace
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ModuleNotFoundError as error:
            raise TracesUnavailable(
                "Traces need OpenTelemetry: install this package with its extra `traces`, or switch traces off with "
                "--traces=false (AGEGENDER_TRACES)."
            ) from error
        # OTEL_SERVICE_NAME takes precedence.
        self._provider = TracerProvider(resource=Resource.create({"service.name": "agegender"}))
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("agegender")
        self._extract = propagate.extract
        self._server = trace.SpanKind.SERVER

    def add_stages(self, spent: Timings) -> None:
        """Add to the current span a child span for each stage of a prediction that has just ended."""
        at = time.time_ns() - round(spent.total * 1e6)
        for stage in ("decode", "detect", "predict"):
            span = self._tracer.start_span(stage, start_time=at)
            at += round(getattr(spent, stage) * 1e6)
            span.end(at)

    async def serve(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request in a span, which continues the trace from the request's headers."""
        context = self._extract(Headers(scope=scope))
        method = scope["method"]
        with self._tracer.start_as_current_span(method, context=context, kind=self._server) as span:
            try:
                await app(scope, receive, send)
            finally:
                # The route, not the path, which may contain a file name.
                route = getattr(scope.get("route"), "path", "other")
                span.update_name(f"{method} {route}")
                span.set_attributes(
                    {
                        "http.request.method": method,
                        "http.route": route,
                        "agegender.request_id": scope["state"]["request_id"],
                    }
                )
                if "status" in scope["state"]:
                    span.set_attribute("http.response.status_code", scope["state"]["status"])

    def close(self) -> None:
        """Export the remaining spans."""
        self._provider.shutdown()


class Traced:
    """ASGI middleware that traces requests, except `_UNTRACED`. `Observe`, outside it, sets ids and statuses."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["path"] in _UNTRACED:
            await self._app(scope, receive, send)
        else:
            await scope["app"].state.traces.serve(self._app, scope, receive, send)
