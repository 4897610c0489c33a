"""What hatchling cannot read from pyproject.toml: the models in a wheel, and the licence of all that is in it.

All of models/ by default, else those that the environment variable MODELS names: MODELS=age_gender_A,age_gender_C.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface

_SPDX = {"CC BY 4.0": "CC-BY-4.0"}
_OTHER = "LicenseRef-weights-for-non-commercial-research"


def chosen_models(root: str) -> list[Path]:
    """The metadata files of the models to take along; ends the build where there is no such model."""
    there = {path.stem: path for path in sorted(Path(root, "models").glob("*.json"))}
    names = [name.strip() for name in os.environ.get("MODELS", "").split(",") if name.strip()]
    for name in names:
        if name not in there:
            raise SystemExit(f"MODELS: there is no model {name} in models/; there are: {', '.join(there)}.")
    return [there[name] for name in names or there]


def licence(root: str) -> str:
    """SPDX expression of the code's licence and of those of the chosen models' weights."""
    stated = {json.loads(path.read_text())["licence"] for path in chosen_models(root)}
    return " AND ".join(["Apache-2.0", *sorted({_SPDX.get(text, _OTHER) for text in stated})])


class BuildHook(BuildHookInterface[Any]):
    """Takes the chosen models along."""

    def initialize(self, _: str, build_data: dict[str, Any]) -> None:
        """Add their files to a wheel or to a source distribution."""
        folder = "agegender/models" if self.target_name == "wheel" else "models"
        for metadata in chosen_models(self.root):
            for file in (metadata, metadata.with_suffix(".onnx"), metadata.with_suffix(".md")):
                if file.exists():  # a model of one's own may have no card
                    build_data["force_include"][str(file)] = f"{folder}/{file.name}"


class MetadataHook(MetadataHookInterface):
    """Names the licence."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set `license`."""
        metadata["license"] = licence(self.root)
