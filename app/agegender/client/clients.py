"""The two clients, which differ in how they send and wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Self, TypeVar, Unpack

import httpx
from pydantic import BaseModel

from agegender.answers import BatchAnswer, ModelsAnswer, Prediction
from agegender.client.errors import ProblemError
from agegender.client.exchange import (
    MODELS,
    READY,
    Question,
    Tries,
    batch_of,
    connection,
    is_ready,
    prediction_of,
)
from agegender.inputs import Channels, Options, Photograph

A = TypeVar("A", bound=BaseModel)


class Client:
    """Asks the service at `url`, such as http://localhost:8000; threads may share it.

    A connection that fails, a 503 and a 429 are tried again up to `retries` times, later each time and not before
    the service's `Retry-After`: nothing that is asked here changes anything there. `timeout` are the seconds
    without any progress after which a try is given up. Raises AddressInvalid for a `url` that is none.
    """

    def __init__(
        self, url: str, *, api_key: str | None = None, timeout: float = 60.0, retries: int = 4
    ) -> None:
        self._retries = retries
        self._http = httpx.Client(**connection(url, api_key, timeout))

    def predict(
        self, photograph: Photograph, *, channels: Channels | None = None, **options: Unpack[Options]
    ) -> Prediction:
        """Age and gender of the faces in one photograph: a path, the bytes of a file, or an array.

        An array is sent as PNG and needs `channels`. Raises AgeGenderError, and OSError, ValueError or TypeError where
        there is nothing to send.
        """
        return self._ask(prediction_of(photograph, channels, options))

    def predict_batch(
        self,
        photographs: Sequence[Photograph],
        *,
        channels: Channels | None = None,
        **options: Unpack[Options],
    ) -> BatchAnswer:
        """The same of up to 32 photographs in one request: a prediction or a problem for each, in their order.

        A problem of status 503 is one of the moment, of an image that was not begun: send that again. Raises as
        `predict` does where all of them fail alike.
        """
        return self._ask(batch_of(photographs, channels, options))

    def models(self) -> ModelsAnswer:
        """The models of the service and their measured figures. Raises AgeGenderError."""
        return self._ask(MODELS)

    def ready(self) -> bool:
        """Whether the service takes predictions right now; asks once. Raises ProblemError if it is another server."""
        try:
            return is_ready(self._http.request(READY.method, READY.path))
        except httpx.RequestError:
            return False

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, question: Question[A]) -> A:
        tries = Tries(self._retries)
        while True:
            try:
                return question.read(self._http.request(question.method, question.path, **question.content))
            except (httpx.RequestError, ProblemError) as failure:
                wait = tries.wait_after(failure)
            time.sleep(wait)


class AsyncClient:
    """`Client` for asyncio: the same, awaited."""

    def __init__(
        self, url: str, *, api_key: str | None = None, timeout: float = 60.0, retries: int = 4
    ) -> None:
        self._retries = retries
        self._http = httpx.AsyncClient(**connection(url, api_key, timeout))

    async def predict(
        self, photograph: Photograph, *, channels: Channels | None = None, **options: Unpack[Options]
    ) -> Prediction:
        """See `Client.predict`."""
        return await self._ask(await asyncio.to_thread(prediction_of, photograph, channels, options))

    async def predict_batch(
        self,
        photographs: Sequence[Photograph],
        *,
        channels: Channels | None = None,
        **options: Unpack[Options],
    ) -> BatchAnswer:
        """See `Client.predict_batch`."""
        return await self._ask(await asyncio.to_thread(batch_of, photographs, channels, options))

    async def models(self) -> ModelsAnswer:
        """See `Client.models`."""
        return await self._ask(MODELS)

    async def ready(self) -> bool:
        """See `Client.ready`."""
        try:
            return is_ready(await self._http.request(READY.method, READY.path))
        except httpx.RequestError:
            return False

    async def close(self) -> None:
        """Close its connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _ask(self, question: Question[A]) -> A:
        tries = Tries(self._retries)
        while True:
            try:
                return question.read(
                    await self._http.request(question.method, question.path, **question.content)
                )
            except (httpx.RequestError, ProblemError) as failure:
                wait = tries.wait_after(failure)
            await asyncio.sleep(wait)
