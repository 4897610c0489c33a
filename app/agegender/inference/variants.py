"""The models of a folder: the metadata and the session of each, checked before anything is served."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from agegender.inference.metadata import Variant
from agegender.inference.session import OnnxSession, SessionInvalid

_PREFERRED = "age_gender_B"


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
    if not folder.is_dir():
        raise ModelsInvalid(
            f"There is no models folder {folder.absolute()}: name the one that holds the models (ID.onnx and ID.json "
            "each) by --models or AGEGENDER_MODELS."
        )
    models = [_load(path) for path in sorted(folder.glob("*.json"))]
    if not models:
        raise ModelsInvalid(f"The models folder {folder} is empty: put a model (ID.onnx and ID.json) there.")
    return Catalogue(models)


def _load(metadata: Path) -> Model:
    network = metadata.with_suffix(".onnx")
    try:
        variant = Variant.model_validate_json(metadata.read_bytes())
        if hashlib.sha256(network.read_bytes()).hexdigest() != variant.sha256:
            raise ModelsInvalid(
                f"{network} is not the file that {metadata.name} describes (its SHA-256 differs): "
                "copy both again, or export the model again."
            )
        session = OnnxSession(network)
    except OSError as error:
        raise ModelsInvalid(
            f"{error.filename} cannot be read ({error.strerror}): a model needs {network.name} and {metadata.name}."
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ModelsInvalid(
            f"{metadata} is not valid metadata ({where}: {first['msg']}): correct it, or export the model again."
        ) from error
    except SessionInvalid as error:
        raise ModelsInvalid(f"{network} {error}: export the model again.") from error
    if variant.id != metadata.stem:
        raise ModelsInvalid(
            f"{metadata} says that its id is {variant.id}: the file name and the id must agree."
        )
    return Model(variant, session)
