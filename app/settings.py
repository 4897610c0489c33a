"""Every setting of the service, once: an environment variable `AGEGENDER_NAME` and an option of `agegender serve`."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.inference.pool import available_cores

ENV_PREFIX = "AGEGENDER_"


class Settings(BaseSettings):
    """What an operator may choose; the reason for each default stands in its description."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="ignore")

    host: str = Field(
        "127.0.0.1", description="Address to listen on; 0.0.0.0 opens the service to the network."
    )
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    models: Path = Field(Path("models"), description="Folder of the models: ID.onnx and ID.json each.")
    default_model: str = Field("age_gender_B", description="Model of requests that name none.")
    yunet_path: Path | None = Field(
        None, description="YuNet's file, where it is not the one that `agegender fetch-detector` stores."
    )
    workers: int = Field(
        default_factory=available_cores,
        ge=1,
        le=1024,
        description="Worker threads; by default one per core, since each uses one core fully.",
    )
    queue_size: int = Field(
        default_factory=lambda values: 4 * values["workers"],
        ge=0,
        description="Requests that may wait for a worker, by default 4 per worker; more get 503 at once.",
    )
    queue_timeout: float = Field(
        10.0, gt=0, description="Seconds after which a request that still waits for a worker gets 503."
    )
    arrival_timeout: float = Field(
        60.0,
        gt=0,
        description="Seconds in which a request must have arrived whole; slower senders are cut off.",
    )
    drain_timeout: float = Field(
        20.0, gt=0, description="Seconds that accepted requests have to finish when the service is stopped."
    )
    max_bytes: int = Field(10 * 2**20, ge=1, description="Largest image accepted, bytes.")
    max_pixels: int = Field(40_000_000, ge=1, description="Largest image decoded, pixels.")
    detect_max_side: int = Field(
        640,
        ge=64,
        description="Faces are looked for on a copy of the image whose longest side has at most so many pixels.",
    )
    page: bool = Field(True, description="Whether / answers with the page to try the service by hand.")
    api_keys: SecretStr = Field(
        SecretStr(""),
        description="Comma-separated keys, one of which each request must send; none: open to all.",
    )
