"""Answers as rows of a table, a row for each face: for CSV and Parquet."""

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
"""Names and types, a list being of numbers; a value may be missing, but for `filename`."""


def rows(filename: str, outcome: Prediction | str) -> Iterator[dict[str, Any]]:
    """A row for each face; one row without a box for an image without faces, or with an `error`."""
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
