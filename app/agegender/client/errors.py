"""All that a client raises by itself.

    AgeGenderError                 str(e) is a sentence that says what to do
    ├── AddressInvalid             the address of the service is none
    ├── NoAnswer                   nobody answers at that address, or the connection broke
    │   └── TimedOut
    └── ProblemError               an answer that is no success, whatever sent it
        ├── ImageRefused           the image is at fault: others may do
        │   ├── ImageMissing
        │   ├── ImageUnreadable
        │   ├── ImageTooLarge
        │   └── BodyTooLarge
        ├── RequestInvalid         the same request will never do
        │   ├── MultipartInvalid
        │   ├── MediaTypeUnsupported
        │   ├── ParameterInvalid
        │   ├── ModelUnknown
        │   ├── ModelUnavailable
        │   ├── DetectorUnavailable
        │   ├── NotFound
        │   └── MethodNotAllowed
        ├── Unauthorized           the API key is missing or wrong
        ├── Busy                   the same request may do later, and was repeated for a while
        │   ├── RateLimited
        │   ├── Overloaded
        │   ├── QueueTimeout
        │   └── ShuttingDown
        └── InternalError          a defect of the service

A class is named as the `type` of the problem documents that it stands for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial


class AgeGenderError(Exception):
    """All that this client raises; str(e) is a sentence that says what to do."""


class AddressInvalid(AgeGenderError):
    """The address of the service is none."""


class NoAnswer(AgeGenderError):
    """Nobody answers at that address, or the connection broke."""


class TimedOut(NoAnswer):
    """The answer, or a connection, took longer than `timeout`."""


class ProblemError(AgeGenderError):
    """An answer that is no success: the problem document's members, filled in where it was none.

    `type` is `about:blank` where there was no document; `request_id` finds the request in the service's log;
    `retry_after` are the seconds that the service asks to wait.
    """

    def __init__(
        self,
        *,
        type: str,  # noqa: A002
        title: str,
        status: int,
        detail: str,
        request_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(detail)
        self.type = type
        self.title = title
        self.status = status
        self.detail = detail
        self.request_id = request_id
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[Callable[[], ProblemError], tuple[()]]:
        # As it is, pickle and copy would make it anew of its sentence alone.
        return partial(self.__class__, **vars(self)), ()


class ImageRefused(ProblemError):
    """The image is at fault: others may do."""


class ImageMissing(ImageRefused):
    """There are no bytes."""


class ImageUnreadable(ImageRefused):
    """The bytes are no image that is read, or not a whole one."""


class ImageTooLarge(ImageRefused):
    """More pixels than the service allows."""


class BodyTooLarge(ImageRefused):
    """More bytes than the service allows."""


class RequestInvalid(ProblemError):
    """The same request will never do."""


class MultipartInvalid(RequestInvalid):
    """The multipart body is not what the path takes."""


class MediaTypeUnsupported(RequestInvalid):
    """The body is neither multipart nor an image."""


class ParameterInvalid(RequestInvalid):
    """An option is out of range, or none of the service's."""


class ModelUnknown(RequestInvalid):
    """The service has no model of that id."""


class ModelUnavailable(RequestInvalid):
    """The model is listed but cannot run there."""


class DetectorUnavailable(RequestInvalid):
    """YuNet is not installed there."""


class NotFound(RequestInvalid):
    """There is no such path: is the address that of the service?"""


class MethodNotAllowed(RequestInvalid):
    """The path does not take that method."""


class Unauthorized(ProblemError):
    """The API key is missing or wrong."""


class Busy(ProblemError):
    """The same request may do later."""


class RateLimited(Busy):
    """This caller asked too often."""


class Overloaded(Busy):
    """Every place in the service's queue is taken."""


class QueueTimeout(Busy):
    """The request waited in the service's queue for too long."""


class ShuttingDown(Busy):
    """The service is being stopped."""


class InternalError(ProblemError):
    """A defect of the service; its log holds more under `request_id`."""


def _leaves(base: type[ProblemError]) -> Iterator[type[ProblemError]]:
    for kind in base.__subclasses__():
        if kind.__subclasses__():
            yield from _leaves(kind)
        else:
            yield kind


BY_TYPE = {
    "/problems/" + re.sub(r"(?<=[a-z])(?=[A-Z])", "-", kind.__name__).lower(): kind
    for kind in _leaves(ProblemError)
}
"""The class of each `type`."""
