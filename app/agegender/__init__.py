"""Estimate age and gender of the faces in photographs: in this process, or with the service over HTTP."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agegender.client import AsyncClient, Client
    from agegender.predictor import Predictor

__all__ = ["AsyncClient", "Client", "Predictor"]

# Imported on first use: OpenCV and ONNX Runtime are slow to import, and the clients need neither.
_MODULES = {"AsyncClient": "client", "Client": "client", "Predictor": "predictor"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
