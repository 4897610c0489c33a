"""What the service counts of itself, and GET /metrics, which shows it to Prometheus without waiting for anything."""

from __future__ import annotations

from collections.abc import Iterable
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
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from app.api.problems import PARAMETER_INVALID, openapi_responses
from app.api.schemas import NoQuery
from app.api.state import Service
from app.inference.predictor import Prediction

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_FACES = (0, 1, 2, 3, 5, 10, 20, 50, 100)


class Metrics:
    """Counters of one app, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "agegender_requests", "Requests answered.", ("route", "status"), registry=self.registry
        )
        self._stages = Histogram(
            "agegender_stage_seconds",
            "Time that a prediction spent in a stage.",
            ("stage",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._faces = Histogram("agegender_faces", "Faces per image.", buckets=_FACES, registry=self.registry)
        build = Gauge("agegender_build_info", "Always 1.", ("version",), registry=self.registry)
        build.labels(version("agegender")).set(1)

    def watch(self, service: Service) -> None:
        """Show what `service` has loaded, and what its pool has to do at the moment of each scrape."""
        self.registry.register(_ServiceCollector(service))

    def count_request(self, route: str, status: int) -> None:
        """One more answer; `route` is the path as it is declared, so that there are few of them."""
        self._requests.labels(route, status).inc()

    def observe(self, prediction: Prediction) -> None:
        """One more image seen."""
        spent = prediction.timings_ms
        for stage in ("decode", "detect", "predict", "total"):
            self._stages.labels(stage).observe(getattr(spent, stage) / 1000)
        self._faces.observe(len(prediction.faces))


class _ServiceCollector(Collector):
    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterable[Metric]:
        load = self._service.pool.load()
        yield GaugeMetricFamily("agegender_queue_waiting", "Requests that wait for a worker.", load.waiting)
        yield GaugeMetricFamily("agegender_running", "Requests that a worker is at.", load.running)
        yield GaugeMetricFamily("agegender_admitted", "Requests let in and not yet answered.", load.admitted)
        yield GaugeMetricFamily(
            "agegender_places", "Requests that may wait or be worked at.", self._service.pool.places
        )
        yield CounterMetricFamily("agegender_refused", "Requests refused at once.", load.refused)
        yield CounterMetricFamily(
            "agegender_queue_timeouts", "Requests that waited too long.", load.timed_out
        )
        loaded = GaugeMetricFamily(
            "agegender_model_loaded", "Whether a model can be asked.", labels=["model"]
        )
        for model in self._service.catalogue:
            loaded.add_metric([model.variant.id], model.session is not None)
        yield loaded


router = APIRouter(tags=["metrics"])


@router.get(
    "/metrics",
    summary="Metrics in Prometheus' text format",
    response_class=PlainTextResponse,
    responses={
        200: {"content": {"text/plain": {"example": 'agegender_build_info{version="0.1.0"} 1.0\n'}}},
        **openapi_responses(PARAMETER_INVALID),
    },
)
async def show(request: Request, _: Annotated[NoQuery, Query()]) -> Response:
    """Requests by route and status, seconds by stage, faces per image, the pool's load, models loaded."""
    metrics: Metrics = request.app.state.metrics
    return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)
