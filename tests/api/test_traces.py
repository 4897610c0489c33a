"""Traces, as a collector receives them over OTLP."""

from __future__ import annotations

import gzip
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from agegender.api.traces import TracesUnavailable
from agegender.settings import Settings
from fastapi import FastAPI
from helpers import ASTRONAUT, in_process, serving
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector:
    """What an OTLP collector has been sent."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                zipped = self.headers.get("Content-Encoding") == "gzip"
                collector.bodies.append(gzip.decompress(body) if zipped else body)
                assert self.path == "/v1/traces"
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def every_span(self) -> list[Any]:
        requests = [ExportTraceServiceRequest.FromString(body) for body in self.bodies]
        return [
            span
            for request in requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def spans(self) -> dict[str, Any]:
        """By name."""
        return {span.name: span for span in self.every_span()}

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    collector = Collector()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    yield collector
    collector.stop()


def test_a_request_is_a_span_of_its_callers_trace_and_its_stages_lie_inside(
    collector: Collector, models_folder: Path
) -> None:
    answers: list[httpx.Response] = []

    async def ask(_: FastAPI, client: httpx.AsyncClient) -> None:
        headers = {
            "Content-Type": "image/jpeg",
            "traceparent": f"00-{TRACE}-{PARENT}-01",
            "X-Request-ID": "traced-1",
        }
        answers.append(await client.post("/predict", content=ASTRONAUT.read_bytes(), headers=headers))
        assert (await client.put("/predict/my-face.jpg")).status_code == 404
        for path in ("/health/live", "/health/ready", "/metrics"):
            assert (await client.get(path)).status_code == 200

    in_process(Settings(models=models_folder, workers=1, traces=True), ask)
    spans = collector.spans()
    assert set(spans) == {"POST /predict", "PUT other", "decode", "detect", "predict"}
    request = spans["POST /predict"]
    assert (request.trace_id.hex(), request.parent_span_id.hex()) == (TRACE, PARENT)
    attributes = {a.key: a.value.string_value or a.value.int_value for a in request.attributes}
    assert attributes == {
        "http.request.method": "POST",
        "http.route": "/predict",
        "http.response.status_code": 200,
        "agegender.request_id": "traced-1",
    }
    timings = answers[0].json()["timings_ms"]
    end = request.start_time_unix_nano
    for stage in ("decode", "detect", "predict"):
        span = spans[stage]
        assert span.parent_span_id == request.span_id
        assert span.start_time_unix_nano >= end
        end = span.end_time_unix_nano
        milliseconds = (end - span.start_time_unix_nano) / 1e6
        assert milliseconds == pytest.approx(timings[stage], abs=0.006)  # answers have two decimals
    assert end <= request.end_time_unix_nano
    assert not any(b"my-face" in body for body in collector.bodies)


def test_without_traces_nothing_is_sent_whatever_the_environment_says(
    collector: Collector, models_folder: Path, tmp_path: Path
) -> None:
    """FastAPI has traces of its own, which hold the whole path."""
    with serving(models_folder, tmp_path, FASTAPI_OTEL_AUTO_CONFIGURE="true") as server:
        assert httpx.put(f"{server.url}/predict/my-face.jpg").status_code == 404
        assert httpx.post(f"{server.url}/predict", content=ASTRONAUT.read_bytes()).status_code == 200
    assert collector.bodies == []


def test_each_image_of_a_batch_has_its_stages_in_the_span_of_the_request(
    collector: Collector, models_folder: Path
) -> None:
    async def ask(_: FastAPI, client: httpx.AsyncClient) -> None:
        images = [ASTRONAUT.read_bytes(), b"this is no image", ASTRONAUT.read_bytes()]
        answer = await client.post(
            "/predict/batch", files=[("images", ("my-face.jpg", image)) for image in images]
        )
        assert answer.status_code == 200

    in_process(Settings(models=models_folder, workers=2, traces=True), ask)
    spans = collector.every_span()
    (request,) = [span for span in spans if span.name == "POST /predict/batch"]
    stages = [span for span in spans if span is not request]
    assert sorted(span.name for span in stages) == 2 * ["decode"] + 2 * ["detect"] + 2 * ["predict"]
    for span in stages:
        assert span.parent_span_id == request.span_id
        assert request.start_time_unix_nano <= span.start_time_unix_nano
        assert span.end_time_unix_nano <= request.end_time_unix_nano
    assert not any(b"my-face" in body for body in collector.bodies)


def test_where_opentelemetry_is_missing_it_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, models_folder: Path
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)

    async def ask(*_: object) -> None:
        pytest.fail("it started")

    with pytest.raises(TracesUnavailable, match=r"install this package with its extra `traces`, or .*=false"):
        in_process(Settings(models=models_folder, workers=1, traces=True), ask)
