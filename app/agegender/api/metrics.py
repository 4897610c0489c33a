"""The metrics of the service, and GET /metrics, where Prometheus scrapes them."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from agegender.answers import Prediction
from agegender.api.problems import INTERNAL_ERROR, PARAMETER_INVALID, openapi_responses
from agegender.api.query import NoQuery
from agegender.api.state import Service

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_FACES = (0, 1, 2, 3, 5, 10, 20, 50, 100)


class Metrics:
    """The metrics of one app, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = own = CollectorRegistry()
        self._requests = Counter(
            "agegender_requests", "Requests answered.", ("route", "status"), registry=own
        )
        stages = Histogram(
            "agegender_stage_seconds",
            "Time that a prediction spent in a stage.",
            ("stage",),
            buckets=_SECONDS,
            registry=own,
        )
        self._stages = {stage: stages.labels(stage) for stage in ("decode", "detect", "predict", "total")}
        self._faces = Histogram("agegender_faces", "Faces per image.", buckets=_FACES, registry=own)
        self._batch_errors = Counter(
            "agegender_batch_errors",
            "Images of batches that were answered with a problem.",
            ("status",),
            registry=own,
        )
        self._batch_errors.labels(INTERNAL_ERROR.status)  # exported as 0 from the start, for the alert
        build = Gauge("agegender_build_info", "Always 1.", ("version",), registry=own)
        build.labels(version("agegender")).set(1)

    def watch(self, service: Service) -> None:
        """Add the models that `service` has loaded, and the current load of its pool."""
        loaded = Gauge(
            "agegender_model_loaded", "Whether a model is loaded.", ("model",), registry=self.registry
        )
        for model in service.catalogue:
            loaded.labels(model.variant.id).set(1)
        self.registry.register(_Load(service))

    def text(self) -> bytes:
        """Return all metrics in Prometheus's text format."""
        return generate_latest(self.registry)

    def count_request(self, route: str, status: int) -> None:
        """Count a response. `route` is the declared path, so that the label has few values."""
        self._requests.labels(route, status).inc()

    def observe(self, prediction: Prediction) -> None:
        """Add the timings and the number of faces of a prediction."""
        for stage, seconds in self._stages.items():
            seconds.observe(getattr(prediction.timings_ms, stage) / 1000)
        self._faces.observe(len(prediction.faces))

    def count_batch_error(self, status: int) -> None:
        """Count an image of a batch that was answered with a problem."""
        self._batch_errors.labels(status).inc()


class _Load(Collector):
    """The current load of the workers."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics with the values that they have now."""
        pool = self._service.pool
        load = pool.load()
        refused = load.refused + self._service.arrival_memory.refused
        for metric, name, help_text, value in (
            (GaugeMetricFamily, "queue_waiting", "Requests that wait for a worker.", load.waiting),
            (GaugeMetricFamily, "running", "Requests that a worker is processing.", load.running),
            (GaugeMetricFamily, "admitted", "Requests accepted and not yet answered.", load.admitted),
            (GaugeMetricFamily, "places", "Maximum number of requests that wait or run.", pool.places),
            (CounterMetricFamily, "refused", "Requests refused for lack of a place or memory.", refused),
            (CounterMetricFamily, "queue_timeouts", "Requests that waited too long.", load.timed_out),
        ):
            yield metric(f"agegender_{name}", help_text, value)


router = APIRouter(tags=["metrics"])


@router.get(
    "/metrics",
    summary="Metrics in Prometheus's text format",
    response_class=PlainTextResponse,
    responses={
        200: {"content": {"text/plain": {"example": 'agegender_build_info{version="0.1.0"} 1.0\n'}}},
        **openapi_responses(PARAMETER_INVALID),
    },
)
async def show(request: Request, _: Annotated[NoQuery, Query()]) -> Response:
    """Requests by route and status, seconds by stage, faces per image, load of the workers, loaded models."""
    metrics: Metrics = request.app.state.metrics
    return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)
