"""The command line: serve, predict, score, models, fetch-detector, doctor."""

from __future__ import annotations

import contextlib
import inspect
import logging.config
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from agegender.answers import DetectorChoice
from agegender.inference import detector_file
from agegender.inference.detector_file import DetectorFileError
from agegender.inputs import Options
from agegender.logs import LOGGING
from agegender.settings import ENV_PREFIX, Settings

if TYPE_CHECKING:
    from agegender.cli.files import Result

# What runs models, or serves, takes a while to import: it is imported by the commands that need it.

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Age and gender of the faces in photographs.",
)
# Names of files are theirs: no :smile: in one is a picture.
out = Console(emoji=False)
err = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)

MANY = 10
"""From so many files on, a terminal shows how far it is."""

_METAVARS: dict[Any, str] = {bool: "BOOLEAN", int: "INTEGER", int | None: "INTEGER", float: "NUMBER"}

_Model = Annotated[
    str | None, typer.Option(help="An id that `agegender models` lists; by default the service's.")
]
_Detector = Annotated[
    DetectorChoice, typer.Option(help="auto is YuNet where its file is present, else Haar.")
]
_MinConfidence = Annotated[
    float | None,
    typer.Option(min=0, max=1, help="Leave out faces found with less; by default the detector's own."),
]
_MaxFaces = Annotated[
    int, typer.Option(min=1, max=100, help="So many faces of an image at most, the largest.")
]


def _say_version(wanted: bool) -> None:
    if wanted:
        out.print(metadata.version("agegender"), highlight=False)
        raise typer.Exit


@app.callback()
def _of_all_commands(
    _: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


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
            f"The setting {ENV_PREFIX}{name.upper()} (--{name.replace('_', '-')}) is invalid: {first['msg']}."
        )


def _takes_settings(command: Callable[[Settings], None]) -> Callable[..., None]:
    """`command` with one option for each setting instead of its argument."""

    def with_options(**options: str | None) -> None:
        logging.config.dictConfig(LOGGING)  # reading the settings may log a line
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
    from agegender import server

    if not server.serve(settings):
        raise typer.Exit(1)


@app.command()
def predict(
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE...",
            help="Image files, folders with all that is in them, quoted patterns such as '2024/**/*.jpg', or - for "
            "standard input.",
            show_default=False,
        ),
    ],
    model: _Model = None,
    detector: _Detector = "auto",
    min_confidence: _MinConfidence = None,
    max_faces: _MaxFaces = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV instead, a line for each face.")] = False,
    annotate_into: Annotated[
        Path | None,
        typer.Option("--annotate", help="Folder for annotated photographs, as NAME.annotated.jpg."),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(help="Address of a running service that shall do it, such as http://localhost:8000."),
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(envvar=f"{ENV_PREFIX}API_KEY", help="Key for that service, if it asks for one."),
    ] = None,
) -> None:
    """Estimate age and gender of the faces in image files, with all cores of this machine or by a running service."""
    from agegender.cli import files, output

    if as_json and as_csv:
        raise typer.BadParameter("choose one of --json and --csv")
    settings = _settings()
    options: Options = {
        "model": model,
        "detector": detector,
        "min_confidence": min_confidence,
        "max_faces": max_faces,
    }
    found = files.find_files(images)
    failed = False

    def watched(results: Iterator[Result]) -> Iterator[Result]:
        """`results`, with a bar for them, and a line on standard error for each that is no answer."""
        nonlocal failed
        # What is printed meanwhile would run into the bar where both go to the same terminal.
        hidden = len(found) < MANY or not err.is_terminal or ((as_json or as_csv) and out.is_terminal)
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        with Progress(
            *columns, console=err, transient=True, redirect_stdout=False, disable=hidden
        ) as progress:
            for result in progress.track(results, total=len(found), description="photographs"):
                if isinstance(result.said, str):
                    failed = True
                    err.print(f"{result.name}: {result.said}", markup=False)
                yield result

    try:
        with files.asking(settings, options, url, api_key) as (ask, threads), output.written():
            results = watched(files.answers(found, ask, threads, annotate_into, settings.max_pixels))
            if as_json:
                output.print_json(results)
            elif as_csv:
                output.print_csv(results)
            else:
                output.print_table(results, out)
    except (*files.CANNOT_GO_ON, output.CannotWrite) as error:
        _fail(error)
    except KeyboardInterrupt:
        if url is None:
            raise
        # An end in order would wait for threads that wait for the service.
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        os._exit(128 + signal.SIGINT)
    if failed:
        raise typer.Exit(1)


@app.command()
def score(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="Folders, image files, Parquet files with a column of encoded bytes, or quoted patterns such as "
            "'2024/**/*.jpg'; on a disk or in a bucket, as s3://BUCKET/FOLDER or gs://BUCKET/FOLDER.",
            show_default=False,
        ),
    ],
    output: Annotated[
        str, typer.Option(help="Folder for the Parquet files, on a disk or in a bucket.", show_default=False)
    ],
    column: Annotated[
        str | None,
        typer.Option(help="Column of the images in Parquet files; needed where several columns hold bytes."),
    ] = None,
    model: _Model = None,
    detector: _Detector = "auto",
    min_confidence: _MinConfidence = None,
    max_faces: _MaxFaces = 20,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes, or actors of Ray; by default one for each core.")
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Ray cluster to run on instead of in processes of this machine: auto for the one that it is part of.",
        ),
    ] = None,
) -> None:
    """Write a row for each face of a data set into Parquet files; run again, it goes on where it was stopped."""
    try:
        from agegender.scale import score as scoring
        from agegender.scale.sources import ScoreError

        if ray is not None:
            import ray as _  # noqa: F401
    except ModuleNotFoundError as error:
        extra = "score" if ray is None else "scale"
        _fail(f"{error.name} is not installed: run `pip install 'agegender[{extra}]'`.")
    from agegender.cli.files import CANNOT_GO_ON

    _settings()
    options: Options = {
        "model": model,
        "detector": detector,
        "min_confidence": min_confidence,
        "max_faces": max_faces,
    }
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    total: Counter[str] = Counter()
    begun = time.perf_counter()
    try:
        with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
            task = progress.add_task("images found", total=None)
            asked = scoring.question(sources, column, options)
            results = scoring.Results(output, asked, lambda found: progress.update(task, completed=found))
            progress.update(task, description="images", total=results.images, completed=results.images_done)
            for counts in scoring.run(results, workers, ray):
                progress.advance(task, counts["images"])
                total.update(counts)
    except (ScoreError, *CANNOT_GO_ON) as error:
        _fail(error)
    except KeyboardInterrupt:
        _fail("stopped; the same command goes on from here.")
    seconds = time.perf_counter() - begun
    before = f" {results.images_done:,} images were done before." if results.images_done else ""
    out.print(
        f"{total['images']:,} images in {seconds:,.0f} seconds, {total['images'] / seconds:,.1f} a second: "
        f"{total['faces']:,} faces, {total['without_face']:,} images without a face, {total['errors']:,} errors."
        f"{before}",
        highlight=False,
        soft_wrap=True,
    )


@app.command()
def models() -> None:
    """List the models and their measured figures."""
    from agegender.inference.variants import ModelsInvalid, load_catalogue

    settings = _settings()
    try:
        catalogue = load_catalogue(settings.models)
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
    """Download YuNet, the better face detector, into the user's cache folder, unless it is there."""
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


@app.command()
def doctor() -> None:
    """Look whether all is well here, and say what to do where it is not."""
    from agegender.cli import doctor

    broken = 0
    for finding in doctor.examine(_settings()):
        broken += finding.state == "wrong"
        style = {"ok": "green", "note": "yellow", "wrong": "bold red"}[finding.state]
        out.print(f"[{style}]{finding.state:<6}[/]{escape(finding.text)}", highlight=False, soft_wrap=True)
    if broken:
        _fail("1 thing is wrong." if broken == 1 else f"{broken} things are wrong.")


def main() -> None:
    """Entry point of `agegender`."""
    # A file's name may hold bytes that are no letters: what cannot be printed is escaped.
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        app()
    except ImportError as error:
        err.print(f"agegender: {error}: run `agegender doctor`, which says what to do.", markup=False)
        raise SystemExit(1) from error
