"""Age and gender of the faces in photographs: the service, a client of it, and `Predictor` without either."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agegender.predictor import Predictor

__all__ = ["Predictor"]


def __getattr__(name: str) -> Any:
    # Not before it is asked for: OpenCV and ONNX Runtime take a while to import, and the client needs neither.
    if name == "Predictor":
        from agegender.predictor import Predictor

        return Predictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
