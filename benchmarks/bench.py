"""What all benchmarks of a run share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agegender.answers import DetectorName
from agegender.inference.variants import Catalogue

from benchmarks.load import Client

DEFAULT_MODEL = "age_gender_B"


@dataclass(frozen=True)
class Bench:
    """The models, YuNet's file where there is one, the client, and how long to measure.

    `requests` is how many the service answers before its memory is measured again.
    """

    catalogue: Catalogue
    yunet: Path | None
    client: Client
    quick: bool
    requests: int

    @property
    def detectors(self) -> tuple[DetectorName, ...]:
        """Those there are; the first is what the service takes by default."""
        return ("haar",) if self.yunet is None else ("yunet", "haar")

    def seconds(self, full: float) -> float:
        """How long to measure what takes `full` seconds in a run that is not quick."""
        return full / 5 if self.quick else full
