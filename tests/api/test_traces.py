"""Traces, as a collector receives them over OTLP."""

from __future__ import annotations

import gzip
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import httpx
import pytest
from agegender.api.traces import TracesUnavailable
from agegender.settings import Settings
from fastapi import FastAPI
from helpers import ASTRONAUT, in_process, serving, web_server
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector:
    """What an OTLP collector has been sent."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    def receive(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers["Content-Length"]))
        zipped = request.headers.get("Content-Encoding") == "gzip"
        self.bodies.append(gzip.decompress(body) if zipped else body)
        request.send_response(200 if request.path == "/v1/traces" else 404)
        request.end_headers()

    def spans(self) -> list[Any]:
        requests = [ExportTraceServiceRequest.FromString(body) for body in self.bodies]
        return [
            span
            for request in requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    collector = Collector()
    with web_server(collector.receive) as address:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
        yield collector


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
        images = [ASTRONAUT.read_bytes(), b"this is no image", ASTRONAUT.read_bytes()]
        files = [("images", ("my-face.jpg", image)) for image in images]
        assert (await client.post("/predict/batch", files=files)).status_code == 200

    in_process(Settings(models=models_folder, workers=1, traces=True), ask)
    spans = collector.spans()
    requests = {span.name: span for span in spans if span.name.startswith(("POST", "PUT"))}
    assert requests.keys() == {"POST /predict", "POST /predict/batch", "PUT other"}
    request = requests["POST /predict"]
    assert (request.trace_id.hex(), request.parent_span_id.hex()) == (TRACE, PARENT)
    attributes = {a.key: a.value.string_value or a.value.int_value for a in request.attributes}
    assert attributes == {
        "http.request.method": "POST",
        "http.route": "/predict",
        "http.response.status_code": 200,
        "agegender.request_id": "traced-1",
    }
    stages = {span.name: span for span in spans if span.parent_span_id == request.span_id}
    timings = answers[0].json()["timings_ms"]
    end = request.start_time_unix_nano
    for stage in ("decode", "detect", "predict"):
        span = stages[stage]
        assert span.start_time_unix_nano >= end
        end = span.end_time_unix_nano
        milliseconds = (end - span.start_time_unix_nano) / 1e6
        assert milliseconds == pytest.approx(timings[stage], abs=0.006)  # answers have two decimals
    assert end <= request.end_time_unix_nano
    batch = requests["POST /predict/batch"].span_id
    of_batch = sorted(span.name for span in spans if span.parent_span_id == batch)
    assert of_batch == 2 * ["decode"] + 2 * ["detect"] + 2 * ["predict"]
    assert not any(b"my-face" in body for body in collector.bodies)


def test_without_traces_nothing_is_sent_whatever_the_environment_says(
    collector: Collector, models_folder: Path, tmp_path: Path
) -> None:
    """FastAPI has traces of its own, which hold the whole path."""
    with serving(models_folder, tmp_path, FASTAPI_OTEL_AUTO_CONFIGURE="true") as server:
        assert httpx.put(f"{server.url}/predict/my-face.jpg").status_code == 404
        assert httpx.post(f"{server.url}/predict", content=ASTRONAUT.read_bytes()).status_code == 200
    assert collector.bodies == []


def test_where_opentelemetry_is_missing_it_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, models_folder: Path
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)

    async def ask(*_: object) -> None:
        pytest.fail("it started")

    with pytest.raises(TracesUnavailable, match=r"install this package with its extra `traces`, or .*=false"):
        in_process(Settings(models=models_folder, workers=1, traces=True), ask)
