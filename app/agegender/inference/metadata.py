"""`models/ID.json`: all that is known about a model without running it. Light to import: no ONNX Runtime."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from agegender.answers import ModelMetrics
from agegender.inference.ages import AgeEstimate, AgeInterval

Text = Annotated[str, Field(min_length=1)]


class Variant(BaseModel):
    """The fields of `models/ID.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    title: Text
    architecture: Text
    description: Text
    input_size: Literal[128] = Field(description="Side of the square crop, pixels.")
    parameters: int = Field(gt=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="Of the file that is served.")
    trained_on: Text
    licence: Text
    created: AwareDatetime
    metrics: ModelMetrics
    age_estimate: AgeEstimate = "expectation"
    age_interval: AgeInterval
    gender_temperature: float = Field(
        default=1.0, gt=0, description="Divides the logit of the gender output."
    )
