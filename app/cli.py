"""The command line: serve, predict, models, fetch-detector."""

from __future__ import annotations

import contextlib
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import cv2
import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import Progress
from rich.table import Column, Table

from app.annotate import annotate
from app.api.schemas import PredictionAnswer
from app.inference import detector_file
from app.inference.detector_file import DetectorFileError
from app.inference.predictor import (
    DetectorChoice,
    DetectorUnavailable,
    ImageTooLarge,
    ImageUnreadable,
    Predictor,
)
from app.inference.variants import Catalogue, ModelsInvalid, ModelUnavailable, UnknownModel, load_catalogue
from app.inference.yunet import YuNet
from app.settings import ENV_PREFIX, Settings
from app.vision.decode import decode

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Age and gender of the faces in photographs.",
)
out = Console()
err = Console(stderr=True, highlight=False, soft_wrap=True)

ONE_SENTENCE = (ModelsInvalid, UnknownModel, ModelUnavailable, DetectorUnavailable, DetectorFileError)
"""Errors that say all there is to say."""

_METAVARS: dict[Any, str] = {bool: "BOOLEAN", int: "INTEGER", int | None: "INTEGER", float: "NUMBER"}


def _fail(message: object) -> NoReturn:
    err.print(f"agegender: {message}", markup=False)
    raise typer.Exit(1)


def _settings(given: dict[str, Any] | None = None) -> Settings:
    """Settings from what was `given` and else the environment; ends the program where one is invalid."""
    try:
        return Settings(**(given or {}))
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        _fail(
            f"the setting {ENV_PREFIX}{name.upper()} (--{name.replace('_', '-')}) is invalid: {first['msg']}."
        )


def _takes_settings(command: Callable[[Settings], None]) -> Callable[..., None]:
    """`command` with one option for each setting instead of its argument."""

    def with_options(**options: str | None) -> None:
        command(_settings({name: value for name, value in options.items() if value is not None}))

    parameters = []
    for name, field in Settings.model_fields.items():
        option = typer.Option(
            f"--{name.replace('_', '-')}",
            envvar=f"{ENV_PREFIX}{name.upper()}",
            metavar=_METAVARS.get(field.annotation, "TEXT"),
            help=field.description,
            show_default=str(field.default) if isinstance(field.default, (str, int, float, Path)) else False,
        )
        parameters.append(
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[str | None, option]
            )
        )
    with_options.__doc__ = command.__doc__
    with_options.__name__ = command.__name__
    with_options.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    with_options.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return with_options


@app.command()
@_takes_settings
def serve(settings: Settings) -> None:
    """Answer predictions over HTTP."""
    from app import server  # the web framework takes a while to import: other commands shall not wait for it

    if not server.serve(settings):
        raise typer.Exit(1)


@app.command()
def predict(
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGE...", help="Image files.", show_default=False)
    ],
    model: Annotated[
        str | None, typer.Option(help="An id that `agegender models` lists; by default the service's.")
    ] = None,
    detector: Annotated[
        DetectorChoice, typer.Option(help="auto is YuNet where its file is present, else Haar.")
    ] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    annotate_into: Annotated[
        Path | None,
        typer.Option("--annotate", help="Folder for pictures with boxes and labels, as NAME.annotated.jpg."),
    ] = None,
) -> None:
    """Estimate age and gender of the faces in image files."""
    settings = _settings()
    try:
        catalogue = load_catalogue(settings.models)
        predictor = Predictor(
            catalogue,
            yunet=YuNet.installed(settings.yunet_path, settings.detect_max_side),
            max_pixels=settings.max_pixels,
            detect_max_side=settings.detect_max_side,
        )
        results = [_predict(predictor, path, model or settings.default_model, detector) for path in images]
    except ONE_SENTENCE as error:
        _fail(error)
    if annotate_into is not None:
        _annotate(annotate_into, images, results, settings.max_pixels)
    if as_json:
        print(
            json.dumps(
                [_as_json(path, result) for path, result in zip(images, results, strict=True)], indent=2
            )
        )
    else:
        _print_faces(images, results)
    failed = [(path, result) for path, result in zip(images, results, strict=True) if isinstance(result, str)]
    for path, message in failed:
        err.print(f"{path}: {message}", markup=False)
    if failed:
        raise typer.Exit(1)


def _predict(
    predictor: Predictor, path: Path, model: str, detector: DetectorChoice
) -> PredictionAnswer | str:
    """The answer for one file, or what is wrong with that file."""
    try:
        return PredictionAnswer.of(predictor.predict(path.read_bytes(), model=model, detector=detector))
    except OSError as error:
        return f"The file cannot be read ({error.strerror})."
    except (ImageUnreadable, ImageTooLarge) as error:
        return str(error)


def _annotate(
    folder: Path, images: list[Path], results: list[PredictionAnswer | str], max_pixels: int
) -> None:
    names = [f"{path.stem}.annotated.jpg" for path in images]
    if len(set(names)) < len(names):
        _fail("two of the images would be annotated under the same name: do them one after the other.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, name, result in zip(images, names, results, strict=True):
            if not isinstance(result, str):
                drawn = annotate(decode(path.read_bytes(), max_pixels), result.faces)
                (folder / name).write_bytes(cv2.imencode(".jpg", drawn)[1].tobytes())
    except OSError as error:
        _fail(f"annotated pictures cannot be written into {folder} ({error.strerror}).")


def _as_json(path: Path, result: PredictionAnswer | str) -> dict[str, Any]:
    if isinstance(result, str):
        return {"filename": str(path), "error": result}
    return {"filename": str(path), "prediction": result.model_dump(mode="json")}


def _print_faces(images: list[Path], results: list[PredictionAnswer | str]) -> None:
    table = Table("image", Column("box (x, y, w, h)", no_wrap=True), "age", "gender", "found by")
    for path, result in zip(images, results, strict=True):
        if isinstance(result, str):
            continue
        if not result.faces:
            table.add_row(str(path), "no face found", "", "", result.detector)
        for face in result.faces:
            box, age, gender = face.box, face.age, face.gender
            table.add_row(
                str(path),
                f"{box.x}, {box.y}, {box.width}, {box.height}",
                f"{age.years:.1f} ({age.low:.0f}-{age.high:.0f})",
                f"{gender.label} {gender.probability:.0%}",
                result.detector + ("" if face.confidence is None else f" {face.confidence:.0%}"),
            )
    if table.row_count:
        out.print(table)


@app.command()
def models() -> None:
    """List the models and their measured figures."""
    settings = _settings()
    try:
        catalogue: Catalogue = load_catalogue(settings.models)
    except ModelsInvalid as error:
        _fail(error)
    table = Table("id", "title", "age MAE", "gender", "faces", "loaded")
    for model in catalogue:
        variant, metrics = model.variant, model.variant.metrics
        table.add_row(
            variant.id + (" *" if variant.id == settings.default_model else ""),
            variant.title,
            f"{metrics.age_mae:.2f} years",
            f"{metrics.gender_accuracy:.1%}",
            f"{metrics.n:,}",
            model.unavailable or "yes",
        )
    out.print(table)
    out.print("* the default; age MAE and gender accuracy were measured on so many test faces")


@app.command()
def fetch_detector(
    source: Annotated[
        Path | None, typer.Option("--from", help="A file that you have, instead of the published address.")
    ] = None,
) -> None:
    """Download YuNet, the better face detector, into the user's cache directory, unless it is there."""
    path = None
    with contextlib.suppress(DetectorFileError):  # a file with the wrong digest is replaced
        path = detector_file.find() if source is None else None
    try:
        if path is None:
            with Progress(console=err, transient=True, disable=not err.is_terminal) as progress:
                task = progress.add_task("YuNet", total=detector_file.YUNET_SIZE)
                path = detector_file.fetch(source, lambda received: progress.update(task, completed=received))
    except DetectorFileError as error:
        _fail(error)
    out.print(f"YuNet is at {path}", highlight=False, soft_wrap=True)


def main() -> None:
    """Entry point of `agegender`."""
    app()
