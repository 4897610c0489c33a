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
import os
from collections.abc import Callable, Sequence
from typing import Any, Self, TypeVar, Unpack

import httpx
import tenacity
from pydantic import BaseModel, ValidationError

from agegender.answers import BatchAnswer, ModelsAnswer, Prediction, Problem
from agegender.inputs import Channels, Options, Photograph, file_or_pixels

LONGEST_WAIT = 60.0
"""Seconds. If Retry-After asks for a longer wait, the request is not repeated."""

_CONNECT_TIMEOUT = 5.0
# Random, so that callers that were refused at the same time do not retry at the same time.
_BACKOFF = tenacity.wait_random_exponential(multiplier=1)

Http = httpx.Client | httpx.AsyncClient
A = TypeVar("A", bound=BaseModel)
F = TypeVar("F", bound=Callable[..., Any])


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
        self._http = httpx.Client(**_connection(url, api_key, timeout))
        self._send = _retrying(self._send_once, retries)

    def predict(
        self, photograph: Photograph, *, channels: Channels | None = None, **options: Unpack[Options]
    ) -> Prediction:
        """Estimate age and gender of the faces in one photograph: a path, the bytes of a file, or an array.

        An array, (height, width, 3) uint8, needs `channels` and is sent as PNG. Raises AgeGenderError, OSError if a
        file cannot be read, and ValueError or TypeError if `photograph` is invalid.
        """
        return self._send(_prediction(self._http, photograph, channels, options), Prediction)

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
        return self._send(_batch(self._http, photographs, channels, options), BatchAnswer)

    def models(self) -> ModelsAnswer:
        """List the models of the service with their measured figures. Raises AgeGenderError."""
        return self._send(self._http.build_request("GET", "/models"), ModelsAnswer)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send_once(self, request: httpx.Request, kind: type[A]) -> A:
        try:
            return _read(self._http.send(request), kind)
        except httpx.RequestError as failure:
            raise _unreachable(failure) from failure


class AsyncClient:
    """`Client` for asyncio: the same methods as coroutines."""

    def __init__(
        self, url: str, *, api_key: str | None = None, timeout: float = 60.0, retries: int = 4
    ) -> None:
        self._http = httpx.AsyncClient(**_connection(url, api_key, timeout))
        self._send = _retrying(self._send_once, retries)

    async def predict(
        self, photograph: Photograph, *, channels: Channels | None = None, **options: Unpack[Options]
    ) -> Prediction:
        """See `Client.predict`."""
        request = await asyncio.to_thread(_prediction, self._http, photograph, channels, options)
        return await self._send(request, Prediction)

    async def predict_batch(
        self,
        photographs: Sequence[Photograph],
        *,
        channels: Channels | None = None,
        **options: Unpack[Options],
    ) -> BatchAnswer:
        """See `Client.predict_batch`."""
        request = await asyncio.to_thread(_batch, self._http, photographs, channels, options)
        return await self._send(request, BatchAnswer)

    async def models(self) -> ModelsAnswer:
        """See `Client.models`."""
        return await self._send(self._http.build_request("GET", "/models"), ModelsAnswer)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _send_once(self, request: httpx.Request, kind: type[A]) -> A:
        try:
            return _read(await self._http.send(request), kind)
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
    key = (api_key or "").strip()  # a file of one line ends with a line break
    if not key.isprintable():
        raise Refused("The API key contains control characters: it must be one line of text.")
    return {
        "base_url": parsed,
        "headers": {"X-API-Key": key.encode()} if key else {},
        "timeout": httpx.Timeout(timeout, connect=min(timeout, _CONNECT_TIMEOUT)),
        "limits": httpx.Limits(max_connections=None),  # one for each thread or task of the caller
    }


def _retrying(send: F, retries: int) -> F:
    """Return `send`, a function or a coroutine, such that it repeats requests."""
    arguments: dict[str, Any] = {
        "retry": tenacity.retry_if_exception(_is_temporary),
        "wait": lambda state: (state.outcome.exception().retry_after or 0) + _BACKOFF(state),
        "stop": tenacity.stop_after_attempt(1 + retries),
        "reraise": True,
    }
    repeating: F = tenacity.retry(**arguments)(send)
    return repeating


def _is_temporary(error: BaseException) -> bool:
    """Whether the same request may succeed within `LONGEST_WAIT`."""
    if not isinstance(error, AgeGenderError):
        return False
    if error.problem is None:
        return not isinstance(error, TimedOut) or isinstance(error.__cause__, httpx.ConnectTimeout)
    return error.problem.status in (429, 503) and (error.retry_after or 0) <= LONGEST_WAIT


def _prediction(
    http: Http, photograph: Photograph, channels: Channels | None, options: Options
) -> httpx.Request:
    headers = {"Content-Type": "application/octet-stream"}
    content = _file(photograph, channels)
    return http.build_request("POST", "/predict", content=content, headers=headers, params=_query(options))


def _batch(
    http: Http, photographs: Sequence[Photograph], channels: Channels | None, options: Options
) -> httpx.Request:
    if not photographs:  # a form without files would be sent as no form at all
        raise ValueError("The batch is empty: give at least one photograph.")
    files = [
        ("images", (_name(photograph, number), _file(photograph, channels)))
        for number, photograph in enumerate(photographs, 1)
    ]
    return http.build_request("POST", "/predict/batch", files=files, params=_query(options))


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


def _read(response: httpx.Response, kind: type[A]) -> A:
    """Parse a response. Raises AgeGenderError."""
    try:
        if response.is_success:
            return kind.model_validate_json(response.content)
        problem = Problem.model_validate_json(response.content)
    except ValidationError:
        raise _not_the_service(response) from None
    error: type[AgeGenderError]
    match response.status_code:
        case 401 | 403 | 429:
            error = Refused
        case 502 | 503 | 504:
            error = Busy
        case status:
            error = BadRequest if status < 500 else Defect
    raise error(problem.detail, problem, _retry_after(response))


def _not_the_service(response: httpx.Response) -> Unreachable:
    status, title = response.status_code, response.reason_phrase
    message = (
        f"The server at {response.url.copy_with(query=None, userinfo=b'')} is not this service, or another version "
        f"of it (status {status} {title}): check the URL, and any proxy in between."
    )
    problem = Problem(
        type="about:blank",
        title=title,
        status=status,
        detail=message,
        instance=response.url.path,
        request_id=response.headers.get("X-Request-ID", ""),
    )
    return Unreachable(message, problem, _retry_after(response))


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
    """Return the wait in seconds that `Retry-After` asks for; a date, its other form, does not count."""
    value = response.headers.get("Retry-After", "")
    return float(value) if value.isdecimal() else None
