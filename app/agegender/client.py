"""Clients of the service, for threads and for asyncio.

    from agegender import Client

    with Client("http://localhost:8000") as client:
        for face in client.predict("photo.jpg").faces:
            print(face.age.years, face.gender.label)

The clients raise:

    AgeGenderError
    ├── BadRequest       the image or an option is invalid; do not repeat the request
    ├── Refused          the API key is missing or wrong, or the rate limit is reached
    ├── Busy             the service is at capacity or shutting down; try again later
    ├── Defect           the service failed; its log has the details under `problem.request_id`
    └── Unreachable      the service is not at this address, or the connection failed
        └── TimedOut     the service did not answer in time

`str(error)` says what is wrong and what to do. `error.problem` is the problem document (`agegender.answers.Problem`),
or None if there was no answer.
"""

from __future__ import annotations

import asyncio
import email.utils
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Self, TypeVar, Unpack

import httpx
import tenacity
from pydantic import BaseModel, ValidationError

from agegender.answers import BatchAnswer, HealthAnswer, ModelsAnswer, Prediction, Problem
from agegender.inputs import Channels, Options, Photograph, file_or_pixels

LONGEST_WAIT = 60.0
"""Seconds. If Retry-After asks for a longer wait, the request is not repeated."""

_CONNECT_TIMEOUT = 5.0
# Random, so that callers that were refused at the same time do not retry at the same time.
_BACKOFF = tenacity.wait_random_exponential(multiplier=1)
_CONNECTION_FAILED = (
    httpx.NetworkError,
    httpx.RemoteProtocolError,
    httpx.ConnectTimeout,
    httpx.ProxyError,
)

A = TypeVar("A", bound=BaseModel)


class AgeGenderError(Exception):
    """Base class of the clients' exceptions. `retry_after` is the wait in seconds that the service asks for."""

    def __init__(
        self, message: str, problem: Problem | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message, problem, retry_after)
        self.problem = problem
        self.retry_after = retry_after

    def __str__(self) -> str:
        return str(self.args[0])


class BadRequest(AgeGenderError):
    """The image or an option is invalid; do not repeat the request."""


class Refused(AgeGenderError):
    """The API key is missing or wrong, or the rate limit is reached."""


class Busy(AgeGenderError):
    """The service is at capacity or shutting down; try again later."""


class Defect(AgeGenderError):
    """The service failed; its log has the details under `problem.request_id`."""


class Unreachable(AgeGenderError):
    """The service is not at this address, or the connection failed."""


class TimedOut(Unreachable):
    """The service did not answer in time."""


class Client:
    """A client of the service at `url`, such as http://localhost:8000. Threads may share a client.

    A request is repeated up to `retries` times if the connection fails or the status is 429 or 503: with exponential
    backoff, and not before the time in `Retry-After`. This is safe, because no request changes the service's state.
    `timeout` is httpx's: the maximum number of seconds without progress. Raises Unreachable for an invalid `url`, and
    Refused for an invalid `api_key`.
    """

    def __init__(
        self, url: str, *, api_key: str | None = None, timeout: float = 60.0, retries: int = 4
    ) -> None:
        self._retrying = _retrying(retries)
        self._http = httpx.Client(**_connection(url, api_key, timeout))

    def predict(
        self, photograph: Photograph, *, channels: Channels | None = None, **options: Unpack[Options]
    ) -> Prediction:
        """Estimate age and gender of the faces in one photograph: a path, the bytes of a file, or an array.

        An array, (height, width, 3) uint8, needs `channels` and is sent as PNG. Raises AgeGenderError, OSError if a
        file cannot be read, and ValueError or TypeError if `photograph` is invalid.
        """
        return self._send(_prediction(photograph, channels, options))

    def predict_batch(
        self,
        photographs: Sequence[Photograph],
        *,
        channels: Channels | None = None,
        **options: Unpack[Options],
    ) -> BatchAnswer:
        """Estimate age and gender of the faces in 1 to 32 photographs with one request.

        The results are in the order of the photographs, each a prediction or a problem. An image with a problem of
        status 503 was not processed: send it again. If the whole batch fails, raises the exceptions of `predict`.
        """
        return self._send(_batch(photographs, channels, options))

    def models(self) -> ModelsAnswer:
        """List the models of the service with their measured figures. Raises AgeGenderError."""
        return self._send(_MODELS)

    def ready(self) -> bool:
        """Check once whether the service accepts predictions. Raises AgeGenderError if `url` is another server's."""
        try:
            return _is_ready(self._http.get(_READY.path))
        except httpx.RequestError:
            return False

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, request: _Request[A]) -> A:
        answer: A = tenacity.Retrying(**self._retrying)(self._send_once, request)
        return answer

    def _send_once(self, request: _Request[A]) -> A:
        try:
            return request.read(self._http.request(request.method, request.path, **request.content))
        except httpx.RequestError as failure:
            raise _unreachable(failure) from failure


class AsyncClient:
    """`Client` for asyncio: the same methods as coroutines."""

    def __init__(
        self, url: str, *, api_key: str | None = None, timeout: float = 60.0, retries: int = 4
    ) -> None:
        self._retrying = _retrying(retries)
        self._http = httpx.AsyncClient(**_connection(url, api_key, timeout))

    async def predict(
        self, photograph: Photograph, *, channels: Channels | None = None, **options: Unpack[Options]
    ) -> Prediction:
        """See `Client.predict`."""
        return await self._send(await asyncio.to_thread(_prediction, photograph, channels, options))

    async def predict_batch(
        self,
        photographs: Sequence[Photograph],
        *,
        channels: Channels | None = None,
        **options: Unpack[Options],
    ) -> BatchAnswer:
        """See `Client.predict_batch`."""
        return await self._send(await asyncio.to_thread(_batch, photographs, channels, options))

    async def models(self) -> ModelsAnswer:
        """See `Client.models`."""
        return await self._send(_MODELS)

    async def ready(self) -> bool:
        """See `Client.ready`."""
        try:
            return _is_ready(await self._http.get(_READY.path))
        except httpx.RequestError:
            return False

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _send(self, request: _Request[A]) -> A:
        return await tenacity.AsyncRetrying(**self._retrying)(self._send_once, request)

    async def _send_once(self, request: _Request[A]) -> A:
        try:
            return request.read(await self._http.request(request.method, request.path, **request.content))
        except httpx.RequestError as failure:
            raise _unreachable(failure) from failure


# Both clients share everything below: all but sending and waiting.


def _connection(url: str, api_key: str | None, timeout: float) -> dict[str, Any]:
    """Return the arguments of httpx's clients. Raises Unreachable or Refused."""
    try:
        parsed = httpx.URL(url)
        parsed.host.encode("idna")  # as the DNS lookup does
    except (httpx.InvalidURL, UnicodeError):
        parsed = httpx.URL("")
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise Unreachable(f"The URL of the service must be like http://localhost:8000, not {url!r}.")
    return {
        "base_url": parsed,
        "headers": {} if api_key is None else {"X-API-Key": _header(api_key)},
        "timeout": httpx.Timeout(timeout, connect=min(timeout, _CONNECT_TIMEOUT)),
        "limits": httpx.Limits(max_connections=None),  # one for each thread or task of the caller
    }


def _header(api_key: str) -> bytes:
    """Encode a key, which may have letters beyond ASCII and, if it was read from a file, a final line break."""
    value = api_key.strip().encode(errors="surrogateescape")
    if any((byte < ord(" ") and byte != ord("\t")) or byte == 0x7F for byte in value):
        raise Refused("The API key contains control characters: it must be one line of text.")
    return value


def _retrying(retries: int) -> dict[str, Any]:
    """Return the arguments of tenacity's classes."""
    return {
        "retry": tenacity.retry_if_exception(_is_temporary),
        "wait": lambda state: (state.outcome.exception().retry_after or 0) + _BACKOFF(state),
        "stop": tenacity.stop_after_attempt(1 + retries),
        "reraise": True,
    }


def _is_temporary(error: BaseException) -> bool:
    """Whether the same request may succeed within `LONGEST_WAIT`."""
    if not isinstance(error, AgeGenderError):
        return False
    if error.problem is None:
        return isinstance(error.__cause__, _CONNECTION_FAILED)
    return error.problem.status in (429, 503) and (error.retry_after or 0) <= LONGEST_WAIT


@dataclass(frozen=True, slots=True)
class _Request(Generic[A]):
    """A request that may be sent several times, and the class of its answer."""

    answer: type[A]
    method: str
    path: str
    content: dict[str, Any] = field(default_factory=dict)

    def read(self, response: httpx.Response) -> A:
        """Parse a response. Raises AgeGenderError."""
        if not response.is_success:
            raise _error(response)
        try:
            return self.answer.model_validate_json(response.content)
        except ValidationError:
            raise _not_the_service(response) from None


_MODELS = _Request(ModelsAnswer, "GET", "/models")
_READY = _Request(HealthAnswer, "GET", "/health/ready")


def _prediction(photograph: Photograph, channels: Channels | None, options: Options) -> _Request[Prediction]:
    headers = {"Content-Type": "application/octet-stream"}
    content = {"content": _file(photograph, channels), "headers": headers, "params": _query(options)}
    return _Request(Prediction, "POST", "/predict", content)


def _batch(
    photographs: Sequence[Photograph], channels: Channels | None, options: Options
) -> _Request[BatchAnswer]:
    if not photographs:
        raise ValueError("The batch is empty: give at least one photograph.")
    files = [
        ("images", (_name(photograph, number), _file(photograph, channels)))
        for number, photograph in enumerate(photographs, 1)
    ]
    return _Request(BatchAnswer, "POST", "/predict/batch", {"files": files, "params": _query(options)})


def _name(photograph: Photograph, number: int) -> str:
    if not isinstance(photograph, str | os.PathLike):
        return f"photograph {number}"
    # File names may have bytes that are not UTF-8, which a header cannot have.
    return os.path.basename(photograph).encode(errors="replace").decode()


def _file(photograph: Photograph, channels: Channels | None) -> bytes:
    data = file_or_pixels(photograph, channels)
    if isinstance(data, bytes):
        return data
    import cv2  # slow to import, and only arrays need it

    return cv2.imencode(".png", data)[1].tobytes()


def _query(options: Options) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _is_ready(response: httpx.Response) -> bool:
    if response.status_code in (502, 503, 504):  # from the service, or from a proxy that cannot reach it
        return False
    return _READY.read(response).status == "ready"


def _error(response: httpx.Response) -> AgeGenderError:
    """Return the exception for a response of status 3xx, 4xx or 5xx."""
    try:
        problem = Problem.model_validate({**_defaults(response), **response.json()})
    except (TypeError, ValueError):  # not a JSON object, or not a problem document
        return _not_the_service(response)
    kind: type[AgeGenderError]
    match response.status_code:
        case 401 | 403 | 429:
            kind = Refused
        case 502 | 503 | 504:
            kind = Busy
        case status:
            kind = BadRequest if status < 500 else Defect
    return kind(problem.detail or problem.title, problem, _retry_after(response))


def _not_the_service(response: httpx.Response) -> Unreachable:
    title, url = response.reason_phrase, response.url.copy_with(query=None, userinfo=b"")
    message = (
        f"The server at {url} is not this service, or another version of it (status {response.status_code} {title}): "
        "check the URL, and any proxy in between."
    )
    problem = Problem.model_validate({**_defaults(response), "title": title, "detail": message})
    return Unreachable(message, problem, _retry_after(response))


def _defaults(response: httpx.Response) -> dict[str, Any]:
    """Return values for the members that other servers may omit from their problem documents."""
    return {
        "type": "about:blank",
        "status": response.status_code,
        "detail": "",
        "instance": response.url.path,
        "request_id": response.headers.get("X-Request-ID", ""),
    }


def _unreachable(failure: httpx.RequestError) -> Unreachable:
    url = failure.request.url.copy_with(raw_path=b"/", userinfo=b"")
    if isinstance(failure, httpx.TimeoutException):
        return TimedOut(
            f"The service at {url} did not answer in time: check its load, or use a longer timeout."
        )
    return Unreachable(
        f"The service at {url} cannot be reached ({str(failure) or type(failure).__name__}): check that it is running, "
        "and that this is its URL."
    )


def _retry_after(response: httpx.Response) -> float | None:
    """Return the wait in seconds that `Retry-After` asks for, as seconds or as a date."""
    value = response.headers.get("Retry-After", "")
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None
