"""`models/ID.json`: all that is known about a model without running it. Light to import: no ONNX Runtime."""

from __future__ import annotations

from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from agegender.inference.ages import AgeEstimate, AgeInterval

Share = Annotated[float, Field(ge=0, le=1)]
Text = Annotated[str, Field(min_length=1)]


class Metrics(BaseModel):
    """Figures on the test split; further numbers may stand beside the named ones."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)
    __pydantic_extra__: dict[str, float]

    age_mae: float = Field(ge=0, description="Mean absolute error, years.")
    gender_accuracy: Share
    n: int = Field(gt=0, description="Faces measured on.")


class Variant(BaseModel):
    """`models/ID.json`: all that is known about a model without running it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    title: Text
    architecture: Text
    description: Text
    input_size: int = Field(description="Side of the square crop, pixels.")
    parameters: int = Field(gt=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="Of the file that is served.")
    trained_on: Text
    licence: Text
    created: AwareDatetime
    metrics: Metrics
    age_estimate: AgeEstimate = "expectation"
    age_interval: AgeInterval
