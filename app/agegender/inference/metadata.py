"""`models/ID.json`: all that is known about a model without running it. Light to import: no ONNX Runtime."""

from __future__ import annotations

from pydantic import ConfigDict, Field

from agegender.answers import ModelInfo
from agegender.inference.ages import AgeEstimate, AgeInterval


class Variant(ModelInfo):
    """The fields of `models/ID.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    age_estimate: AgeEstimate = "expectation"
    age_interval: AgeInterval
    gender_temperature: float = Field(
        default=1.0, gt=0, description="Divides the logit of the gender output."
    )
