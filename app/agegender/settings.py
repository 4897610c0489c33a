"""The settings of the service. Each is an environment variable `AGEGENDER_...` and an option of `agegender serve`."""

from __future__ import annotations

import ipaddress
import logging
import re
from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict

from agegender.cores import available_cores

ENV_PREFIX = "AGEGENDER_"

Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]

logger = logging.getLogger("agegender")


def _models_folder() -> Path:
    """Return `models` in the working directory or, if it holds no model, those of the installation or the clone."""
    here = Path("models")
    package = Path(__file__).parent
    for folder in (here, package / "models", package.parents[1] / "models"):
        if any(metadata.with_suffix(".onnx").exists() for metadata in folder.glob("*.json")):
            return folder
    return here


class Settings(BaseSettings):
    """The settings of the service, by default from the environment. Raises pydantic's ValidationError."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, env_ignore_empty=True, frozen=True)

    host: str = Field(
        "127.0.0.1",
        description="Address to listen on: 0.0.0.0 or :: opens the service to the network, localhost listens on IPv4 "
        "and IPv6.",
    )
    port: Port = Field(8000, description="Port to listen on; 0 selects a free one.")
    metrics_port: Port | None = Field(
        None,
        description="Separate port for GET /metrics, which the main port then does not serve; 0 selects a free one.",
    )
    models: Path = Field(
        default_factory=_models_folder,
        description="Folder with ID.onnx and ID.json of each model. By default `models` in the working directory or, "
        "if that has no model, the models of this package.",
    )
    default_model: str | None = Field(
        None,
        description="Model for requests that name none. By default age_gender_B or, if it is missing, the first model.",
    )
    yunet_path: Path | None = Field(
        None, description="YuNet's file, if it is not where `agegender fetch-detector` stores it."
    )
    workers: int = Field(
        default_factory=available_cores,
        ge=1,
        le=1024,
        description="Worker threads, each of which can use one core fully. By default one per available core.",
    )
    queue_size: int = Field(
        default_factory=lambda values: 4 * values["workers"],
        ge=0,
        description="Requests that may wait for a worker; more get a 503 at once. By default 4 per worker.",
    )
    queue_timeout: Seconds = Field(
        10.0, description="Seconds that a request may wait for a worker before it gets a 503."
    )
    arrival_timeout: Seconds = Field(
        60.0,
        description="Seconds within which a request must arrive completely; slower connections are closed.",
    )
    keep_alive_timeout: Seconds = Field(
        75.0,
        description="Seconds for which an idle connection is kept open. Set it higher than in the load balancer in "
        "front, often 60, or some requests get a 502 from there.",
    )
    drain_timeout: Seconds = Field(
        20.0, description="Seconds that accepted requests have to finish when the service stops."
    )
    max_bytes: int = Field(
        20 * 2**20,
        ge=1,
        description="Maximum size of an image in bytes. A JPEG of 48 megapixels has 10 to 20 MiB.",
    )
    arrival_memory: int = Field(
        default_factory=lambda values: 8 * values["max_bytes"],
        ge=1,
        description="Memory in bytes for requests that are still arriving; when it is full, requests get a 503. By "
        "default 8 times the maximum size of an image.",
    )
    max_batch_bytes: int = Field(
        default_factory=lambda values: values["arrival_memory"] // 4,
        ge=1,
        description="Maximum size of a batch in bytes: by default a quarter of the memory for arriving requests, at "
        "most half of it.",
    )
    max_image_memory: int = Field(
        400_000_000,
        ge=1,
        description="Memory in bytes that a worker may use to decode an image. The default allows 50 million pixels in "
        "JPEG, PNG and HEIC, and fewer in formats that need more memory per pixel.",
    )
    traces: bool = Field(
        False,
        description="Send OpenTelemetry traces, configured by the OTEL_... variables; needs the extra `traces`.",
    )
    page: bool = Field(True, description="Serve the page at / to try the service by hand.")
    api_keys: SecretStr = Field(
        SecretStr(""),
        description="Comma-separated keys; each request must send one of them as X-API-Key. Empty: no key is needed.",
    )
    rate_limit: str = Field(
        "",
        description="Requests allowed per caller, such as 60/minute; more get a 429. A caller is a key or, without "
        "keys, an address. A batch counts as one request. Empty: no limit.",
    )
    trusted_proxies: str = Field(
        "",
        description="Comma-separated addresses or networks of proxies whose X-Forwarded-For is trusted. Empty: none.",
    )
    cors_origins: str = Field(
        "",
        description="Comma-separated origins whose pages may call the service from a browser, such as "
        "https://example.com; * allows all. Empty: none.",
    )

    @field_validator("host")
    @classmethod
    def _without_brackets(cls, host: str) -> str:
        return host.removeprefix("[").removesuffix("]")

    @field_validator("port", "metrics_port", mode="before")
    @classmethod
    def _is_no_service_link(cls, port: object, info: ValidationInfo) -> object:
        """Ignore the variable AGEGENDER_PORT=tcp://10.0.0.1:80 that Kubernetes sets for a service named agegender."""
        if isinstance(port, str) and re.match(r"(tcp|udp|sctp)://", port):
            name = str(info.field_name)
            logger.warning(
                "ignored %s%s=%s: it is a service link of Kubernetes, not a port",
                ENV_PREFIX,
                name.upper(),
                port,
            )
            return cls.model_fields[name].default
        return port

    @field_validator("metrics_port")
    @classmethod
    def _is_another_port(cls, metrics_port: int | None, others: ValidationInfo) -> int | None:
        if metrics_port and metrics_port == others.data.get("port"):
            raise PydanticCustomError("port", "Input should differ from AGEGENDER_PORT")
        return metrics_port

    @field_validator("arrival_memory")
    @classmethod
    def _holds_an_image(cls, arrival_memory: int, others: ValidationInfo) -> int:
        if arrival_memory < others.data.get("max_bytes", 0):
            raise PydanticCustomError("memory", "Input should be at least AGEGENDER_MAX_BYTES")
        return arrival_memory

    @field_validator("max_batch_bytes")
    @classmethod
    def _finds_room(cls, max_batch_bytes: int, others: ValidationInfo) -> int:
        if max_batch_bytes > others.data.get("arrival_memory", 0) // 2:
            raise PydanticCustomError("batch", "Input should be at most half of AGEGENDER_ARRIVAL_MEMORY")
        return max_batch_bytes

    @field_validator("api_keys")
    @classmethod
    def _holds_a_key(cls, keys: SecretStr) -> SecretStr:
        if keys.get_secret_value() and not listed(keys.get_secret_value()):
            raise PydanticCustomError("keys", "Input should contain a key, or be empty if no key is needed")
        return keys

    @field_validator("rate_limit")
    @classmethod
    def _is_a_rate(cls, rate: str) -> str:
        if rate and not re.fullmatch(r"[1-9]\d{0,8}/(second|minute|hour|day)", rate):
            raise PydanticCustomError(
                "rate",
                "Input should be a number of requests per second, minute, hour or day, such as 60/minute",
            )
        return rate

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, proxies: str) -> str:
        try:
            for proxy in listed(proxies):
                ipaddress.ip_network(proxy)
        except ValueError:
            raise PydanticCustomError(
                "proxies", "Input should be addresses or networks, such as 10.0.0.2,192.168.0.0/16"
            ) from None
        return proxies

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, origins: str) -> str:
        for origin in listed(origins):
            if origin != "*" and not re.fullmatch(r"https?://[a-z0-9.:\[\]-]+", origin):
                raise PydanticCustomError(
                    "origins",
                    "Input should be origins as browsers send them, such as https://example.com,http://localhost:3000",
                )
        return origins


def listed(comma_separated: str) -> list[str]:
    """Split a setting with several values and strip spaces; empty values are dropped."""
    return [part for each in comma_separated.split(",") if (part := each.strip())]
