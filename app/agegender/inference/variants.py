"""The models of a folder: the metadata and the session of each, checked before anything is served."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from agegender.inference.metadata import Variant
from agegender.inference.session import OnnxSession, SessionInvalid
from agegender.vision.align import CROP_SIZE

_PREFERRED = "age_gender_B"

__all__ = [
    "Catalogue",
    "Model",
    "ModelsInvalid",
    "UnknownModel",
    "Variant",
    "load_catalogue",
]


class ModelsInvalid(Exception):
    """The models folder cannot be served; str(e) is a sentence that names the file and says what to do."""


class UnknownModel(Exception):
    """No model has that id; str(e) is a sentence for the caller."""


@dataclass(frozen=True, slots=True)
class Model:
    """What is known about a model, and the session that runs it."""

    variant: Variant
    session: OnnxSession


class Catalogue:
    """The models of one folder, in the order of their ids."""

    def __init__(self, models: Sequence[Model]) -> None:
        self._models = {model.variant.id: model for model in models}

    def __iter__(self) -> Iterator[Model]:
        return iter(self._models.values())

    def __getitem__(self, model_id: str) -> Model:
        """The model of that id; raises UnknownModel."""
        try:
            return self._models[model_id]
        except KeyError:
            raise UnknownModel(f"There is no such model; there are: {', '.join(self._models)}.") from None

    def default(self, chosen: str | None) -> str:
        """The id of the model for requests that name none, from the setting. Raises UnknownModel."""
        if chosen is None:
            return _PREFERRED if _PREFERRED in self._models else next(iter(self._models))
        if chosen not in self._models:
            raise UnknownModel(
                f"The default model {chosen} is not there; there are: {', '.join(self._models)}. "
                "Choose one by --default-model (AGEGENDER_DEFAULT_MODEL)."
            )
        return chosen


def load_catalogue(folder: Path) -> Catalogue:
    """Load every model of `folder` (ID.json with ID.onnx); raises ModelsInvalid."""
    try:
        names = {path.name for path in folder.iterdir()}
    except FileNotFoundError:
        raise ModelsInvalid(
            f"There is no models folder {folder.absolute()}: name the one that holds the models (ID.onnx and ID.json "
            "each) by --models or AGEGENDER_MODELS."
        ) from None
    except OSError as error:
        raise ModelsInvalid(
            f"The models folder {folder} cannot be read ({error.strerror}): check its path and rights."
        ) from error
    ids = sorted(name.removesuffix(".json") for name in names if name.endswith(".json"))
    for name in sorted(names):
        stem, _, suffix = name.rpartition(".")
        if suffix == "onnx" and stem not in ids:
            raise ModelsInvalid(
                f"{folder / name} has no {stem}.json beside it: export the model again, or remove the file."
            )
    if not ids:
        raise ModelsInvalid(f"The models folder {folder} is empty: put a model (ID.onnx and ID.json) there.")
    return Catalogue([_load(folder, model_id) for model_id in ids])


def _load(folder: Path, model_id: str) -> Model:
    variant = _read_metadata(folder / f"{model_id}.json")
    path = folder / f"{model_id}.onnx"
    if _sha256(path) != variant.sha256:
        raise ModelsInvalid(
            f"{path} is not the file that {model_id}.json describes (its SHA-256 differs): "
            "copy both again, or export the model again."
        )
    try:
        return Model(variant, OnnxSession(path))
    except SessionInvalid as error:
        raise ModelsInvalid(f"{path} {error}: export the model again.") from error


def _read_metadata(path: Path) -> Variant:
    try:
        variant = Variant.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ModelsInvalid(f"{path} cannot be read ({error.strerror}).") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        what = f"{where}: {first['msg']}" if where else first["msg"]
        raise ModelsInvalid(
            f"{path} is not valid metadata ({what}): correct it, or export the model again."
        ) from error
    if variant.id != path.stem:
        raise ModelsInvalid(f"{path} says that its id is {variant.id}: the file name and the id must agree.")
    if variant.input_size != CROP_SIZE:
        raise ModelsInvalid(
            f"{path} asks for crops of {variant.input_size} pixels, but they have {CROP_SIZE}."
        )
    return variant


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise ModelsInvalid(
            f"{path} is missing, though {path.stem}.json describes it: copy it there, or remove that."
        ) from error
    except OSError as error:
        raise ModelsInvalid(f"{path} cannot be read ({error.strerror}).") from error
