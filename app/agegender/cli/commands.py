"""The command line: serve, predict, score, audit, models, fetch-detector, doctor."""

from __future__ import annotations

import contextlib
import errno
import functools
import inspect
import logging.config
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from agegender.inference import detector_file
from agegender.inference.detector_file import DetectorFileError
from agegender.inputs import Options, PredictQuery
from agegender.logs import LOGGING
from agegender.settings import ENV_PREFIX, Settings

if TYPE_CHECKING:
    from agegender.cli.files import Result

# The models and the server are slow to import: only the commands that need them import them.

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Age and gender of the faces in photographs.",
)
# No emoji: a file may be named :smile:.jpg. No wrapping of lines in a pipe.
out = Console(highlight=False, emoji=False, width=None if sys.stdout.isatty() else 10_000)
err = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


def _takes_options(*options: inspect.Parameter) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Put `options` in the place of a command's parameter `options`, which gets their values by name."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def with_options(**arguments: Any) -> None:
            command(options={option.name: arguments.pop(option.name) for option in options}, **arguments)

        parameters: list[inspect.Parameter] = []
        for parameter in inspect.signature(command, eval_str=True).parameters.values():
            parameters += options if parameter.name == "options" else [parameter]
        with_options.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return with_options

    return decorate


def _option(name: str, default: object, kind: object, **details: Any) -> inspect.Parameter:
    annotation = Annotated[kind, typer.Option(f"--{name.replace('_', '-')}", **details)]  # type: ignore[valid-type]
    return inspect.Parameter(
        name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=annotation
    )


def _of_predictions(*left_out: str) -> Iterator[inspect.Parameter]:
    """Yield an option for each field of `PredictQuery`."""
    for name, field in PredictQuery.model_fields.items():
        bounds = {key: value for limit in field.metadata for key, value in asdict(limit).items()}
        if name not in left_out:
            limits = {"min": bounds.get("ge"), "max": bounds.get("le")}
            yield _option(name, field.default, field.annotation, help=field.description, **limits)


def _of_settings() -> Iterator[inspect.Parameter]:
    """Yield an option for each of the settings, which take text as they do from the environment."""
    for name, field in Settings.model_fields.items():
        default = field.default  # beside the plain ones, the descriptions tell them
        shown = str(default) if default and isinstance(default, str | int | float) else False
        variable = f"{ENV_PREFIX}{name.upper()}"
        details: dict[str, Any] = {"metavar": "true|false"} if field.annotation is bool else {}
        details |= {"help": field.description, "envvar": variable, "show_default": shown}
        yield _option(name, None, str | None, **details)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(metadata.version("agegender"))
        raise typer.Exit


@app.callback()
def _of_all_commands(
    _: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def _fail(message: object) -> NoReturn:
    err.print(f"agegender: {message}", markup=False)
    raise typer.Exit(1)


def _progress(hidden: bool = False) -> Progress:
    """Return a progress bar for standard error, which is hidden if that is not a terminal."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    disable = hidden or not err.is_terminal
    return Progress(*columns, console=err, transient=True, redirect_stdout=False, disable=disable)


def _settings(**sources: Any) -> Settings:
    """Read the settings from the environment and `sources`. Exit if one is invalid."""
    try:
        return Settings(**sources)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        _fail(
            f"The setting {ENV_PREFIX}{name.upper()} (--{name.replace('_', '-')}) is invalid: {first['msg']}."
        )


@app.command()
@_takes_options(*_of_settings())
def serve(options: dict[str, str | None]) -> None:
    """Serve predictions over HTTP."""
    from agegender import server

    logging.config.dictConfig(LOGGING)  # reading the settings may log a warning
    if not server.serve(_settings(**{name: text for name, text in options.items() if text is not None})):
        raise typer.Exit(1)


@app.command()
@_takes_options(*_of_predictions())
def predict(
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE",
            help="Image files, folders and their subfolders, quoted patterns such as '2024/**/*.jpg', http(s) "
            "addresses, or - for standard input.",
        ),
    ],
    options: Options,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, one line for each face.")] = False,
    annotate_into: Annotated[
        Path | None,
        typer.Option("--annotate", help="Write annotated copies into this folder, as NAME.annotated.jpg."),
    ] = None,
    url: Annotated[str | None, typer.Option(help="Use the service at this URL.")] = None,
    api_key: Annotated[
        str | None,
        typer.Option(envvar=f"{ENV_PREFIX}API_KEY", help="API key of that service, if it needs one."),
    ] = None,
) -> None:
    """Estimate age and gender of the faces in photographs, on all cores of this machine or by a service."""
    from agegender.cli import files, output

    if as_json and as_csv:
        raise typer.BadParameter("choose one of --json and --csv")
    settings = _settings()
    found, left_out = files.find_files(images)
    failed = False

    def watched(results: Iterator[Result]) -> Generator[Result, None, None]:
        """Show the progress of `results`, and print each problem on standard error."""
        nonlocal failed
        # JSON and CSV are printed while the bar is shown: on the same terminal they would mix.
        with _progress(hidden=(as_json or as_csv) and out.is_terminal) as progress:
            for result in progress.track(results, total=len(found), description="photographs"):
                if isinstance(result.outcome, str):
                    failed = True
                    err.print(f"{result.name}: {result.outcome}", markup=False)
                yield result

    try:
        with (
            files.predicting(settings, options, url, api_key) as (estimate, threads),
            # Stops the thread of the progress bar, which must not outlive the interpreter.
            contextlib.closing(
                watched(files.results(found, estimate, threads, settings, annotate_into))
            ) as results,
        ):
            if as_json:
                output.print_json(results)
            elif as_csv:
                output.print_csv(results)
            else:
                output.print_table(results, out)
        sys.stdout.flush()
    except files.CANNOT_GO_ON as error:
        _fail(error)
    except OSError as error:
        if error.errno == errno.EPIPE:  # the reader has ended, as `head` does
            raise
        # Python flushes again when it exits, and would print an error of its own.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _fail(f"The answers cannot be written ({error.strerror}).")
    except KeyboardInterrupt:
        # A regular exit would wait for threads, which may wait for a server.
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        os._exit(128 + signal.SIGINT)
    for name, kinds in left_out.items():
        if kinds:
            listed = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
            err.print(f"{name}: some files were left out ({listed}).", markup=False)
    if failed:
        raise typer.Exit(1)


@app.command()
@_takes_options(*_of_predictions())
def score(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE",
            help="Folders, image files, Parquet files with a column of encoded images, or quoted patterns such as "
            "'2024/**/*.jpg', on a disk or in a bucket: s3://BUCKET/FOLDER or gs://BUCKET/FOLDER.",
        ),
    ],
    output: Annotated[str, typer.Option(help="Folder for the Parquet files, on a disk or in a bucket.")],
    options: Options,
    column: Annotated[
        str | None, typer.Option(help="Parquet column of the images, if several hold bytes.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Worker processes, or Ray actors; by default one per core.")
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Run on this Ray cluster instead of in local processes; auto is the cluster of this machine.",
        ),
    ] = None,
) -> None:
    """Write a row for each face of a data set into Parquet files. After an interruption, run it again to resume."""
    try:
        from agegender.scale import score as scoring
        from agegender.scale.sources import ScoreError

        if ray is not None:
            import ray as _  # noqa: F401
    except ModuleNotFoundError as error:
        extra = "score" if ray is None else "scale"
        _fail(f"{error.name} is not installed: add the extra {extra}, as in `pip install '.[{extra}]'`.")
    from agegender.cli.files import CANNOT_GO_ON

    _settings()  # exits if one is invalid
    total: Counter[str] = Counter()
    begun = time.perf_counter()
    try:
        with _progress() as progress:
            task = progress.add_task("images", total=None)
            results = scoring.Results(output, scoring.describe(sources, column, options))
            progress.update(task, total=results.images, completed=results.images_done)
            for counts in scoring.run(results, workers, ray):
                progress.advance(task, counts["images"])
                total.update(counts)
    except (ScoreError, *CANNOT_GO_ON) as error:
        _fail(error)
    except KeyboardInterrupt:
        _fail("Stopped. Run the same command again to resume.")
    seconds = time.perf_counter() - begun
    before = f" {results.images_done:,} images were scored before." if results.images_done else ""
    typer.echo(
        f"{total['images']:,} images in {seconds:,.0f} seconds, {total['images'] / seconds:,.1f} a second: "
        f"{total['faces']:,} faces, {total['without_face']:,} images without a face, {total['errors']:,} errors."
        f"{before}"
    )


@app.command()
@_takes_options(*_of_predictions("max_faces", "distribution"))
def audit(
    photographs: Annotated[Path, typer.Argument(metavar="PHOTOS", help="Folder of the photographs.")],
    labels: Annotated[
        Path,
        typer.Argument(
            metavar="LABELS",
            help="CSV table with the columns file (a path in PHOTOS), age (a number or a range such as 20-29) and "
            "gender (male or female). Each other column divides the faces into groups.",
        ),
    ],
    options: Options,
    as_json: Annotated[Path | None, typer.Option("--json", help="Write the figures as JSON.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the figures into this PNG file.")] = None,
    recalibrate: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Calibrate the model on these faces, and write it into this new folder, for AGEGENDER_MODELS.",
        ),
    ] = None,
) -> None:
    """Measure a model on labelled photographs of your own: errors with 95 % intervals, overall and by group."""
    from agegender.cli.audit import AuditError, Reader, examine, read_labels, write_recalibrated
    from agegender.cli.files import CANNOT_GO_ON

    if plot is not None and find_spec("matplotlib") is None:
        _fail("matplotlib is not installed: add the extra audit, as in `pip install '.[audit]'`.")
    if recalibrate is not None and recalibrate.exists():
        _fail(f"{recalibrate} already exists: name a new folder for the model.")
    settings, query = _settings(), PredictQuery(**options)
    try:
        rows = read_labels(labels)
        reader = Reader(settings, query)
        with _progress() as progress:
            outcomes = reader.read_all(photographs, rows)
            read = list(progress.track(outcomes, total=len(rows), description="photographs"))
        faces, report = examine(rows, read, reader.model.variant, query.coverage)
        for name, why in report.unreadable.items():
            err.print(f"{name}: {why}", markup=False)
        report.print(out)
        if as_json is not None:
            report.write_json(as_json)
        if plot is not None:
            report.plot(plot)
        if recalibrate is not None:
            write_recalibrated(reader.model, settings.models, faces, recalibrate)
            typer.echo(f"Serve the calibrated model with AGEGENDER_MODELS={recalibrate}")
    except (AuditError, *CANNOT_GO_ON) as error:
        _fail(error)
    except OSError as error:
        _fail(f"The audit cannot be written ({error}).")


@app.command()
def models() -> None:
    """List the models and their measured figures."""
    from agegender.cli.output import plain_table
    from agegender.inference.variants import ModelsInvalid, UnknownModel, load_catalogue

    settings = _settings()
    try:
        catalogue = load_catalogue(settings.models)
        default = catalogue.default(settings.default_model)
    except (ModelsInvalid, UnknownModel) as error:
        _fail(error)
    table = plain_table("id", "title", "age MAE", "gender", "faces")
    for model in catalogue:
        variant, metrics = model.variant, model.variant.metrics
        table.add_row(
            variant.id + (" *" if variant.id == default else ""),
            variant.title,
            f"{metrics.age_mae:.2f} years",
            f"{metrics.gender_accuracy:.1%}",
            f"{metrics.n:,}",
        )
    out.print(table)
    typer.echo("* default model; age MAE and gender accuracy on the test faces")


@app.command()
def fetch_detector(
    source: Annotated[Path | None, typer.Option("--from", help="Copy this file instead.")] = None,
) -> None:
    """Download YuNet, the better face detector, into your cache folder, unless it is there."""
    path = None
    with contextlib.suppress(DetectorFileError):  # replace a file with the wrong digest
        path = detector_file.find() if source is None else None
    try:
        if path is None:
            path = detector_file.fetch(source)
    except DetectorFileError as error:
        _fail(error)
    typer.echo(f"YuNet is at {path}")


@app.command()
def doctor() -> None:
    """Check this installation, and say how to repair what is wrong."""
    from agegender.cli import doctor

    broken = 0
    for finding in doctor.examine(_settings()):
        broken += finding.state == "wrong"
        style = {"ok": "green", "note": "yellow", "wrong": "bold red"}[finding.state]
        out.print(f"[{style}]{finding.state:<6}[/]{escape(finding.text)}", soft_wrap=True)
    if broken:
        _fail("1 problem found." if broken == 1 else f"{broken} problems found.")
