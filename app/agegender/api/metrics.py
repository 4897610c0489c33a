"""What the service counts of itself, and GET /metrics, which shows it to Prometheus without waiting for anything."""

from __future__ import annotations

import os
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
from prometheus_client.multiprocess import MultiProcessCollector

from agegender.answers import Prediction
from agegender.api.problems import INTERNAL_ERROR, PARAMETER_INVALID, openapi_responses
from agegender.api.schemas import NoQuery
from agegender.api.state import Service

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_FACES = (0, 1, 2, 3, 5, 10, 20, 50, 100)


class Metrics:
    """Counters of one app, in a registry of its own; where several processes serve, those of all of them."""

    def __init__(self) -> None:
        self._registry = own = CollectorRegistry()
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

        def gauge(name: str, words: str) -> Gauge:
            return Gauge(f"agegender_{name}", words, registry=own, multiprocess_mode="livesum")

        self._waiting = gauge("queue_waiting", "Requests that wait for a worker.")
        self._running = gauge("running", "Requests that a worker is at.")
        self._admitted = gauge("admitted", "Requests let in and not yet answered.")
        self._places = gauge("places", "Requests that may wait or be worked at.")
        self._refused = Counter(
            "agegender_refused", "Requests for which there was no place or no memory.", registry=own
        )
        self._timeouts = Counter("agegender_queue_timeouts", "Requests that waited too long.", registry=own)
        self._batch_errors = Counter(
            "agegender_batch_errors",
            "Images of batches that were answered by a problem.",
            ("status",),
            registry=own,
        )
        self._batch_errors.labels(INTERNAL_ERROR.status)  # shown before the first: an alert watches it
        self._loaded = Gauge(
            "agegender_model_loaded",
            "Whether a model can be asked.",
            ("model",),
            registry=own,
            multiprocess_mode="livemin",
        )
        build = Gauge(
            "agegender_build_info", "Always 1.", ("version",), registry=own, multiprocess_mode="livemax"
        )
        build.labels(version("agegender")).set(1)
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            self._registry = CollectorRegistry()
            MultiProcessCollector(self._registry)  # type: ignore[no-untyped-call]

    def watch(self, service: Service) -> None:
        """Show what `service` has loaded, and what its pool has to do."""
        self._pool = service.pool
        self._arrival_memory = service.arrival_memory
        self._published = (0, 0)
        self._places.set(service.pool.places)
        for model in service.catalogue:
            self._loaded.labels(model.variant.id).set(model.session is not None)

    def publish(self) -> None:
        """Take over what the pool has to do right now."""
        load = self._pool.load()
        self._waiting.set(load.waiting)
        self._running.set(load.running)
        self._admitted.set(load.admitted)
        refused, timed_out = load.refused + self._arrival_memory.refused, load.timed_out
        self._refused.inc(refused - self._published[0])
        self._timeouts.inc(timed_out - self._published[1])
        self._published = refused, timed_out

    def text(self) -> bytes:
        """All of it in Prometheus' text format; what other processes have to do is as old as a second."""
        self.publish()
        return generate_latest(self._registry)

    def count_request(self, route: str, status: int) -> None:
        """One more answer; `route` is the path as it is declared, so that there are few of them."""
        self._requests.labels(route, status).inc()

    def observe(self, prediction: Prediction) -> None:
        """One more image seen."""
        spent = prediction.timings_ms
        for stage, seconds in self._stages.items():
            seconds.observe(getattr(spent, stage) / 1000)
        self._faces.observe(len(prediction.faces))

    def count_batch_error(self, status: int) -> None:
        """One more image of a batch that was answered by a problem."""
        self._batch_errors.labels(status).inc()


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
    return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)
