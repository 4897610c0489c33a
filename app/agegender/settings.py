"""Every setting of the service, once: an environment variable `AGEGENDER_NAME` and an option of `agegender serve`."""

from __future__ import annotations

import ipaddress
import logging
import re
from pathlib import Path

from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict

from agegender.cores import available_cores

ENV_PREFIX = "AGEGENDER_"

logger = logging.getLogger("agegender")


class Settings(BaseSettings):
    """What an operator may choose; the description of each gives the reason for its default."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_ignore_empty=True, frozen=True, extra="ignore"
    )

    host: str = Field(
        "127.0.0.1",
        description="Address to listen on: 0.0.0.0 or :: opens the service to the network, localhost listens on IPv4 "
        "and IPv6.",
    )
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    metrics_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="Separate port for GET /metrics, which is then not served on the main one; 0 takes a free one.",
    )
    models: Path = Field(
        default_factory=lambda: _models_folder(),
        description="Folder of the models (ID.onnx and ID.json each); by default `models` in the working directory or, "
        "where that holds none, the models that come with this package.",
    )
    default_model: str | None = Field(
        None,
        description="Model for requests that name none; by default age_gender_B or, where it is not there, the first "
        "one.",
    )
    yunet_path: Path | None = Field(
        None, description="YuNet's file, if not where `agegender fetch-detector` stores it."
    )
    workers: int = Field(
        default_factory=available_cores,
        ge=1,
        le=1024,
        description="Worker threads, by default one per available core; each uses one core fully.",
    )
    queue_size: int = Field(
        default_factory=lambda values: 4 * values["workers"],
        ge=0,
        description="Requests that may wait for a worker, by default 4 per worker; further ones get a 503 at once.",
    )
    queue_timeout: float = Field(
        10.0,
        gt=0,
        allow_inf_nan=False,
        description="Seconds that a request may wait for a worker before it gets a 503.",
    )
    arrival_timeout: float = Field(
        60.0,
        gt=0,
        allow_inf_nan=False,
        description="Seconds within which a request must have arrived completely; slower connections are closed.",
    )
    keep_alive_timeout: float = Field(
        75.0,
        gt=0,
        allow_inf_nan=False,
        description="Seconds for which an idle connection is kept open: longer than the load balancer in front keeps "
        "it, often 60, which otherwise answers some requests with a 502.",
    )
    drain_timeout: float = Field(
        20.0,
        gt=0,
        allow_inf_nan=False,
        description="Seconds that accepted requests have to finish when the service stops.",
    )
    max_bytes: int = Field(
        20 * 2**20,
        ge=1,
        description="Largest image accepted, in bytes; a JPEG of 48 megapixels has 10 to 20 MiB.",
    )
    arrival_memory: int = Field(
        default_factory=lambda values: 8 * values["max_bytes"],
        ge=1,
        description="Memory for requests that are still arriving, in bytes, by default 8 of the largest images; "
        "when it is full, requests get a 503.",
    )
    max_batch_bytes: int = Field(
        default_factory=lambda values: values["arrival_memory"] // 4,
        ge=1,
        description="Largest batch accepted, in bytes, by default a quarter of the memory for arriving requests and at "
        "most half of it.",
    )
    max_image_memory: int = Field(
        400_000_000,
        ge=1,
        description="Memory, in bytes, that a worker may take to decode an image. The default allows JPEG, PNG and "
        "HEIC 50 million pixels, and fewer to kinds of file that take more memory for each.",
    )
    traces: bool = Field(
        False,
        description="Send OpenTelemetry traces, configured by its OTEL_... variables; needs the extra `traces`.",
    )
    page: bool = Field(True, description="Serve the page at / to try the service by hand.")
    api_keys: SecretStr = Field(
        SecretStr(""),
        description="Comma-separated keys, one of which each request must send as X-API-Key. Empty: no key is needed.",
    )
    rate_limit: str = Field(
        "",
        description="Requests allowed per caller, by key or else by address, such as 60/minute; further ones get a "
        "429. A batch counts as one. Empty: no limit.",
    )
    trusted_proxies: str = Field(
        "",
        description="Comma-separated addresses or networks of proxies whose X-Forwarded-For is trusted. Empty: it is "
        "ignored.",
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
        """Ignore what Kubernetes sets for a service named `agegender`: AGEGENDER_PORT=tcp://10.0.0.1:80."""
        if isinstance(port, str) and re.match(r"(tcp|udp|sctp)://", port):
            name = str(info.field_name)
            logger.warning(
                "%s%s=%s is a service link of Kubernetes, not a port, and is ignored",
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
            raise PydanticCustomError("port", "Input should be another port than AGEGENDER_PORT")
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
            raise PydanticCustomError("keys", "Input should hold a key, or be left out if no key is needed")
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


def _models_folder() -> Path:
    """Return `models` here, or where that holds none, the models of the installation or of the clone."""
    here = Path("models")
    package = Path(__file__).parent
    for folder in (here, package / "models", package.parents[1] / "models"):  # installed, and a clone
        if any(metadata.with_suffix(".onnx").exists() for metadata in folder.glob("*.json")):
            return folder
    return here


def listed(comma_separated: str) -> list[str]:
    """Split a setting that holds several values; spaces around each are removed."""
    return [part for each in comma_separated.split(",") if (part := each.strip())]
