"""What both clients ask, how they read the answer, and when they ask again: all but the sending."""

from __future__ import annotations

import email.utils
import os
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from agegender.answers import BatchAnswer, HealthAnswer, ModelsAnswer, Prediction
from agegender.client.errors import BY_TYPE, AddressInvalid, AgeGenderError, NoAnswer, ProblemError, TimedOut
from agegender.inputs import Channels, Options, Photograph, file_or_pixels

FIRST_WAIT = 0.5
"""Seconds, at most, before the first repetition; twice as many before each further one."""

LONGEST_WAIT = 60.0
"""A service that asks to wait for more seconds than these is not waited for."""

_CONNECT_TIMEOUT = 5.0
_WORTH_REPEATING = (
    httpx.NetworkError,
    httpx.RemoteProtocolError,
    httpx.ConnectTimeout,
    httpx.ProxyError,
)

A = TypeVar("A", bound=BaseModel)


def connection(url: str, api_key: str | None, timeout: float) -> dict[str, Any]:
    """Arguments of httpx's clients. Raises AddressInvalid, or AgeGenderError where the key can be none."""
    try:
        parsed = httpx.URL(url)
        parsed.host.encode("idna")  # as it will be when it is looked up
    except (httpx.InvalidURL, UnicodeError):
        parsed = httpx.URL("")
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise AddressInvalid(f"The address of the service must be like http://localhost:8000, not {url!r}.")
    return {
        "base_url": parsed,
        # As bytes: a key may have any letters, headers that are text only ASCII.
        "headers": {} if api_key is None else {"X-API-Key": _header(api_key)},
        "timeout": httpx.Timeout(timeout, connect=min(timeout, _CONNECT_TIMEOUT)),
        # Callers with many threads set the bound.
        "limits": httpx.Limits(max_connections=None),
    }


def _header(api_key: str) -> bytes:
    # Out of a file it ends with the line's end, which is no part of it for the service either.
    value = api_key.strip().encode(errors="surrogateescape")
    if any((byte < ord(" ") and byte != ord("\t")) or byte == 0x7F for byte in value):
        raise AgeGenderError("The API key holds characters that no header can: it must be one line of text.")
    return value


@dataclass(frozen=True, slots=True)
class Question(Generic[A]):
    """A request that may be sent again and again, and the class of its answer."""

    answer: type[A]
    method: str
    path: str
    content: dict[str, Any]

    def read(self, response: httpx.Response) -> A:
        """The answer; raises ProblemError."""
        if not response.is_success:
            raise _problem(response)
        try:
            return self.answer.model_validate_json(response.content)
        except ValidationError:
            raise _foreign(response) from None


MODELS = Question(ModelsAnswer, "GET", "/models", {})
READY = Question(HealthAnswer, "GET", "/health/ready", {})


def prediction_of(
    photograph: Photograph, channels: Channels | None, options: Options
) -> Question[Prediction]:
    """What asks for a prediction. Raises OSError, ValueError or TypeError, as `file_or_pixels` does."""
    headers = {"Content-Type": "application/octet-stream"}
    content = {"content": _file(photograph, channels), "headers": headers, "params": _query(options)}
    return Question(Prediction, "POST", "/predict", content)


def batch_of(
    photographs: Sequence[Photograph], channels: Channels | None, options: Options
) -> Question[BatchAnswer]:
    """What asks for predictions of several. Raises OSError, ValueError or TypeError, as `file_or_pixels` does."""
    if not photographs:
        raise ValueError("There is no photograph in this batch.")
    parts = [
        ("images", (_name(photograph, number), _file(photograph, channels)))
        for number, photograph in enumerate(photographs, 1)
    ]
    return Question(BatchAnswer, "POST", "/predict/batch", {"files": parts, "params": _query(options)})


def _name(photograph: Photograph, number: int) -> str:
    if not isinstance(photograph, str | os.PathLike):
        return f"photograph {number}"
    # A name may hold bytes that are no letters, which no header can.
    return os.path.basename(photograph).encode(errors="replace").decode()


def _query(options: Options) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _file(photograph: Photograph, channels: Channels | None) -> bytes:
    data = file_or_pixels(photograph, channels)
    if isinstance(data, bytes):
        return data
    import cv2  # only arrays need it: whoever sends files shall not wait for it

    return cv2.imencode(".png", data)[1].tobytes()


def is_ready(response: httpx.Response) -> bool:
    """Whether that answer to GET /health/ready says so; raises ProblemError where it says neither."""
    if response.status_code in (502, 503, 504):  # as proxies, too, say that there is nobody behind them
        return False
    return READY.read(response).status == "ready"


class Tries:
    """Decides after each try of one request whether there is another, and when."""

    def __init__(self, retries: int) -> None:
        self._left = retries
        self._backoff = FIRST_WAIT

    def wait_after(self, failure: httpx.RequestError | ProblemError) -> float:
        """Seconds until the next try; raises an AgeGenderError where there shall be none."""
        if isinstance(failure, ProblemError):
            error: AgeGenderError = failure
            again = failure.status in (429, 503)
            asked = failure.retry_after or 0.0
        else:
            error, again, asked = _no_answer(failure), isinstance(failure, _WORTH_REPEATING), 0.0
        if not again or not self._left or asked > LONGEST_WAIT:
            raise error from (None if error is failure else failure)
        self._left -= 1
        # By chance, so that callers who were refused together do not come back together; never too early.
        wait = asked + self._backoff * random.uniform(0.5, 1)  # noqa: S311
        self._backoff *= 2
        return wait


def _no_answer(failure: httpx.RequestError) -> NoAnswer:
    url = failure.request.url.copy_with(raw_path=b"/", userinfo=b"")
    if isinstance(failure, httpx.TimeoutException):
        return TimedOut(
            f"The service at {url} has not answered in time: see how busy it is, or give it a longer timeout."
        )
    return NoAnswer(
        f"The service at {url} cannot be reached ({str(failure) or type(failure).__name__}): "
        "is it running, and is that its address?"
    )


class _Document(BaseModel):
    """As little of a problem document as any sender, such as a gateway, must give."""

    type: str = "about:blank"
    title: str
    detail: str = ""


def _problem(response: httpx.Response) -> ProblemError:
    """What a response that is no success says, problem document or not."""
    try:
        document = _Document.model_validate_json(response.content)
    except ValidationError:
        return _foreign(response)
    kind = BY_TYPE.get(document.type, ProblemError)
    return kind(
        type=document.type,
        title=document.title,
        detail=document.detail or document.title,
        **_facts(response),
    )


def _foreign(response: httpx.Response) -> ProblemError:
    """For what no service of this kind answers: a proxy's page, or that of another server."""
    title = response.reason_phrase
    url = response.url.copy_with(query=None, userinfo=b"")
    return ProblemError(
        type="about:blank",
        title=title,
        detail=f"What answers at {url} is not the service, or not one of this version "
        f"(it answered {response.status_code} {title}): check the address, and any proxy before it.",
        **_facts(response),
    )


def _facts(response: httpx.Response) -> dict[str, Any]:
    return {
        "status": response.status_code,
        "request_id": response.headers.get("X-Request-ID"),
        "retry_after": _seconds(response.headers.get("Retry-After")),
    }


def _seconds(retry_after: str | None) -> float | None:
    """Of a `Retry-After`, which holds seconds or a date."""
    if retry_after is None:
        return None
    if retry_after.isascii() and retry_after.isdigit():
        return float(retry_after)
    try:
        then = email.utils.parsedate_to_datetime(retry_after).timestamp()
    except ValueError:
        return None
    return max(0.0, then - time.time())
