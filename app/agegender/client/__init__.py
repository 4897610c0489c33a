"""A client of the service, with and without asyncio.

    from agegender.client import Client

    with Client("http://localhost:8000") as client:
        for face in client.predict("photo.jpg").faces:
            print(face.age.years, face.gender.label)

Answers are those of `agegender.answers`, as the service makes them; `agegender.client.errors` draws what it raises.
"""

from agegender.client.clients import AsyncClient, Client
from agegender.client.errors import (
    AddressInvalid,
    AgeGenderError,
    BodyTooLarge,
    Busy,
    DetectorUnavailable,
    ImageMissing,
    ImageRefused,
    ImageTooLarge,
    ImageUnreadable,
    InternalError,
    MediaTypeUnsupported,
    MethodNotAllowed,
    ModelUnavailable,
    ModelUnknown,
    MultipartInvalid,
    NoAnswer,
    NotFound,
    Overloaded,
    ParameterInvalid,
    ProblemError,
    QueueTimeout,
    RateLimited,
    RequestInvalid,
    ShuttingDown,
    TimedOut,
    Unauthorized,
)

__all__ = [
    "AddressInvalid",
    "AgeGenderError",
    "AsyncClient",
    "BodyTooLarge",
    "Busy",
    "Client",
    "DetectorUnavailable",
    "ImageMissing",
    "ImageRefused",
    "ImageTooLarge",
    "ImageUnreadable",
    "InternalError",
    "MediaTypeUnsupported",
    "MethodNotAllowed",
    "ModelUnavailable",
    "ModelUnknown",
    "MultipartInvalid",
    "NoAnswer",
    "NotFound",
    "Overloaded",
    "ParameterInvalid",
    "ProblemError",
    "QueueTimeout",
    "RateLimited",
    "RequestInvalid",
    "ShuttingDown",
    "TimedOut",
    "Unauthorized",
]
