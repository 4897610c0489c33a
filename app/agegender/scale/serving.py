"""The service on Ray Serve: `serve run agegender.scale.serving:app`.

Each replica runs the whole app. A middleware turns the refusals of Serve's proxies into problem documents. Name it in
the environment of each node before Ray starts:

    RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=agegender.scale.serving:proxy_middlewares
"""

import logging.config
import threading
import time
from dataclasses import replace

import ray
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families
from pydantic import BaseModel, Field
from ray import serve
from ray.serve.config import AutoscalingConfig, BackpressureConfig
from ray.serve.metrics import Gauge
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agegender.api import problems, upload
from agegender.api.metrics import Metrics
from agegender.api.request_log import HEADERS, id_of
from agegender.cores import available_cores
from agegender.logs import LOGGING
from agegender.main import create_app
from agegender.settings import Settings

TOO_LARGE = replace(problems.BODY_TOO_LARGE, example="The body is too large: send a smaller one.")
REPLICA_LOST = problems.Kind(
    "replica-lost",
    503,
    "Replica lost",
    "The replica that processed this request failed: send the request again.",
)
STARTING = problems.Kind("starting", 503, "Starting", "The service is starting: try again in a few seconds.")
_OF_SERVE = {404: STARTING, 408: problems.QUEUE_TIMEOUT, 503: problems.OVERLOADED}
"""Serve's own statuses, 404 being that of every path before the app is known. Any other is a lost replica."""


class Arguments(BaseModel):
    """Arguments of the app: `args` in a configuration file, or name=value after `serve run ...:app`."""

    cpus: int = Field(default_factory=available_cores, ge=1, description="Cores of each replica.")
    min_replicas: int = Field(1, ge=1, description="Replicas without load.")
    max_replicas: int = Field(64, ge=1, description="Most replicas, however high the load.")


def app(arguments: Arguments) -> serve.Application:
    """Return the service, scaled to its load. Called by `serve`."""
    settings = Settings(workers=arguments.cpus)
    places = settings.workers + settings.queue_size
    deployment = serve.deployment(
        name="agegender",
        ray_actor_options={"num_cpus": arguments.cpus},
        max_ongoing_requests=places,
        max_queued_requests=places,
        backpressure_config=BackpressureConfig(retry_after_s=problems.RETRY_AFTER_SECONDS),
        autoscaling_config=AutoscalingConfig(
            min_replicas=arguments.min_replicas,
            max_replicas=arguments.max_replicas,
            target_ongoing_requests=2 * arguments.cpus,
        ),
        graceful_shutdown_timeout_s=settings.drain_timeout,
        logging_config={"enable_access_log": False},  # the app has an access log of its own
    )
    return deployment(serve.ingress(_build)()).bind()


def _build() -> FastAPI:
    """Create the app of a replica: a worker for each core assigned by Ray, and the settings of its node."""
    logging.config.dictConfig(LOGGING)
    cpus = int(ray.get_runtime_context().get_assigned_resources()["CPU"])
    # A metrics port removes /metrics from the app: behind the proxy, each request would reach another replica.
    built = create_app(Settings(workers=cpus, metrics_port=0))
    threading.Thread(target=_export, args=[built.state.metrics], daemon=True).start()
    return built


def _export(metrics: Metrics) -> None:
    """Copy the metrics of a replica to those of Ray, as `ray_agegender_...`, for Prometheus to sum."""
    gauges: dict[str, Gauge] = {}
    while True:
        time.sleep(5)
        for family in text_string_to_metric_families(metrics.text().decode()):
            for sample in family.samples:
                if sample.name not in gauges:
                    gauges[sample.name] = Gauge(sample.name, family.documentation, tuple(sample.labels))
                gauges[sample.name].set(sample.value, sample.labels)


def proxy_middlewares() -> list[Middleware]:
    """Return the middlewares of each of Serve's proxies."""
    return [Middleware(KeepContract, settings=Settings())]


class KeepContract:
    """ASGI middleware: add request ids, bound the body before it is read, and refuse with problem documents."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._limit = upload.largest_body(max(settings.max_bytes, settings.max_batch_bytes))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request. Leave paths below /-/ to Serve."""
        if scope["type"] != "http" or scope["path"].startswith("/-/"):
            await self._app(scope, receive, send)
            return
        headers = MutableHeaders(scope=scope)
        headers["x-request-id"] = request_id = id_of(headers)
        answered = False
        refusal: problems.Kind | None = None
        received = int(headers.get("content-length", 0))

        async def receive_bounded() -> Message:
            nonlocal received, refusal
            message = await receive()
            if "content-length" not in headers:
                received += len(message.get("body", b""))
            if received > self._limit:
                refusal = TOO_LARGE
                return {"type": "http.disconnect"}
            return message

        async def send_own(message: Message) -> None:
            nonlocal answered, refusal
            if message["type"] == "http.response.start":
                sent = MutableHeaders(scope=message)
                # All responses of the app have this header, Serve's own do not.
                if message["status"] >= 400 and "x-content-type-options" not in sent:
                    refusal = refusal or _OF_SERVE.get(message["status"], REPLICA_LOST)
                else:
                    answered = True
                    sent["x-request-id"] = request_id
            if answered:
                await send(message)

        if received > self._limit:
            refusal = TOO_LARGE
        else:
            await self._app(scope, receive_bounded, send_own)
        if not answered:
            error = problems.ApiError(refusal or REPLICA_LOST, headers={"X-Request-ID": request_id})
            response = problems.problem_response(error, scope["path"], request_id)
            response.raw_headers += HEADERS
            await response(scope, receive, send)
