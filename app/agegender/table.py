"""Predictions as rows of a table, one row per face, for CSV and Parquet."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from agegender.answers import Prediction

COLUMNS: dict[str, type] = {
    "filename": str,
    "error": str,
    "model": str,
    "detector": str,
    "image_width": int,
    "image_height": int,
    "x": int,
    "y": int,
    "width": int,
    "height": int,
    "confidence": float,
    "roll": float,
    "warnings": str,
    "age": float,
    "age_low": float,
    "age_high": float,
    "age_coverage": float,
    "age_distribution": list,
    "gender": str,
    "gender_probability": float,
}
"""Names and types of the columns; a list is one of floats. Every value except `filename` may be missing."""


def rows(filename: str, outcome: Prediction | str) -> Iterator[dict[str, Any]]:
    """Yield a row for each face. An image without faces, or with an `error`, gets one row without a box."""
    if isinstance(outcome, str):
        yield {"filename": filename, "error": outcome}
        return
    image = {
        "filename": filename,
        "model": outcome.model,
        "detector": outcome.detector,
        "image_width": outcome.image.width,
        "image_height": outcome.image.height,
    }
    if not outcome.faces:
        yield image
    for face in outcome.faces:
        yield {
            **image,
            **dataclasses.asdict(face.box),
            "confidence": face.confidence,
            "roll": face.roll,
            "warnings": " ".join(face.warnings),
            "age": face.age.years,
            "age_low": face.age.low,
            "age_high": face.age.high,
            "age_coverage": face.age.coverage,
            "age_distribution": face.age.distribution,
            "gender": face.gender.label,
            "gender_probability": face.gender.probability,
        }
