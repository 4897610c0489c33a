"""The training job's command line: prepare, train, calibrate, export, evaluate, evaluate-service."""

from __future__ import annotations

import dataclasses
import errno
import json
import re
import signal
import sys
from collections.abc import Callable
from contextlib import nullcontext
from enum import StrEnum
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, ParamSpec

import typer
from agegender.inference import detector_file
from agegender.inference.detector_file import DetectorFileError
from agegender.inference.variants import ModelsInvalid, UnknownModel, load_catalogue
from agegender.inference.yunet import YuNet
from agegender.vision.haar import Haar
from rich.console import Console
from rich.table import Table

from training import data, splits
from training.errors import TrainingError

if TYPE_CHECKING:
    from training import report

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Make the age-and-gender models from UTKFace and FairFace.",
)
out = Console()
err = Console(stderr=True, highlight=False, soft_wrap=True)

CacheOption = Annotated[Path, typer.Option(help="Folder of the prepared faces.")]
RunsOption = Annotated[Path, typer.Option(help="Folder that holds one folder per training run.")]
ModelsOption = Annotated[Path, typer.Option(help="Folder of the served models.")]
UtkFaceOption = Annotated[Path, typer.Option(help="UTKFace.tar.gz as published, or its folder.")]
YUNET_VARIABLE = "AGEGENDER_YUNET_PATH"
DEFAULT_CACHE = Path("data/cache")
DEFAULT_RUNS = Path("runs")
DEFAULT_MODELS = Path("models")


class VariantName(StrEnum):
    """The two architectures."""

    A = "A"
    B = "B"


class SplitName(StrEnum):
    """The splits that no run learned from."""

    VALIDATION = splits.VALIDATION
    TEST = splits.TEST


class ModelId(StrEnum):
    """The model of each."""

    A = "age_gender_A"
    B = "age_gender_B"


IdArgument = Annotated[ModelId, typer.Argument(metavar="ID", help="age_gender_A or age_gender_B.")]
P = ParamSpec("P")


def _in_one_sentence(command: Callable[P, None]) -> Callable[P, None]:
    """`command`, which ends the program with a sentence where it cannot go on."""

    @wraps(command)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except (TrainingError, DetectorFileError, ModelsInvalid, UnknownModel) as error:
            _fail(error)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                _fail(
                    f"Nothing more can be written ({error.strerror}): make room, then do it again, or --resume."
                )
            if error.filename is None:  # no file that somebody named
                raise
            _fail(f"{error.filename} cannot be used ({error.strerror}): check its path and rights.")

    return guarded


def _fail(message: object) -> NoReturn:
    err.print(f"training: {message}", markup=False)
    raise typer.Exit(1)


@app.command()
@_in_one_sentence
def prepare(
    utkface: UtkFaceOption,
    fairface: Annotated[
        list[Path] | None,
        typer.Option(help="FairFace's archive or folder; may be repeated, for its parts."),
    ] = None,
    yunet: Annotated[
        Path | None,
        typer.Option(
            envvar=YUNET_VARIABLE,
            help="YuNet's file, to crop FairFace with; by default what `agegender fetch-detector` stored.",
        ),
    ] = None,
    cache: CacheOption = DEFAULT_CACHE,
) -> None:
    """Crop, label and split the data sets into one cache."""
    from training import plots, report  # Matplotlib takes a while to import: --help shall not wait for it

    detector = None
    if fairface:
        file = detector_file.find(yunet)
        if file is None:
            raise typer.BadParameter(
                "FairFace's faces must be found first: run `agegender fetch-detector`, or add --yunet PATH"
            )
        detector = YuNet(file)
    faces, summaries = data.prepare(cache, utkface, fairface or (), detector)
    files = Table("data set", "used", "repaired", "malformed", "unreadable", "no face", title="Files")
    for name, summary in summaries.items():
        dropped = (summary.repaired, summary.malformed, summary.unreadable, summary.no_face)
        files.add_row(name, str(summary.used), *(str(len(names)) for names in dropped))
    out.print(files)
    for name, summary in summaries.items():
        for what in ("repaired", "malformed", "unreadable", "no_face"):
            for file in getattr(summary, what):
                out.print(f"{name}, {what.replace('_', ' ')}: {file}", highlight=False, markup=False)
    _print(report.split_counts(faces))
    picture = cache / "age_distribution.png"
    plots.age_distribution(faces, picture)
    out.print(f"Ages: {picture}", highlight=False, soft_wrap=True)


@app.command()
@_in_one_sentence
def make(
    name: Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe in training/recipes, such as C.")],
    imagenet: Annotated[
        str,
        typer.Option(
            help="MobileNetV2's weights on ImageNet without the top: a file, or 'imagenet' to download."
        ),
    ] = "imagenet",
    cache: CacheOption = DEFAULT_CACHE,
    runs: RunsOption = DEFAULT_RUNS,
) -> None:
    """Make the model of a recipe: train it. A run that was stopped goes on."""
    from training import recipe
    from training.train import train as run_training

    run_training(recipe.load(name), data.load(cache), runs / name, imagenet)


@app.command()
@_in_one_sentence
def train(
    variant: Annotated[VariantName, typer.Argument(help="A: from scratch; B: MobileNetV2.")],
    init: Annotated[
        str | None,
        typer.Option(
            help="First weights: an exported .keras file, or the folder of a run, of the variant to go on from; or for "
            "B's backbone 'imagenet' (its default, downloaded) or a file."
        ),
    ] = None,
    teacher: Annotated[
        list[str] | None,
        typer.Option(
            help="An exported .keras file, or the folder of a run, whose answers are learned beside the labels; "
            "may be repeated."
        ),
    ] = None,
    recognizer: Annotated[
        str | None,
        typer.Option(
            help="InsightFace's w600k_mbf.onnx, a face recognition network: what heads on its features say "
            "of age and gender is learned in the labels' place, and so are the features."
        ),
    ] = None,
    epochs: Annotated[
        str | None, typer.Option(help="Stages as SIDE:EPOCHS, comma-separated, such as 96:4,128:4.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Faces in a step; 64 by default.")] = None,
    peak_learning_rate: Annotated[
        float | None, typer.Option(help="Where the learning rate's cosine begins; 0.001 by default.")
    ] = None,
    fairface_share: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Share of FairFace's faces in an epoch beside all of UTKFace's; 1 by default."
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of everything random; 0 by default.")] = None,
    resume: Annotated[
        bool, typer.Option(help="Go on from the last whole epoch of an earlier run, with its options.")
    ] = False,
    tensorboard: Annotated[
        bool, typer.Option(help="Write the history for TensorBoard too: tensorboard --logdir runs")
    ] = False,
    cache: CacheOption = DEFAULT_CACHE,
    runs: RunsOption = DEFAULT_RUNS,
) -> None:
    """Train a variant; the best epoch by validation is kept."""
    from training import fit  # Keras takes seconds to import: other commands shall not wait for it

    if init == "imagenet" and variant == VariantName.A:
        raise typer.BadParameter("imagenet is for B: A begins with random weights or a .keras file")
    run = runs / variant.value
    config = fit.DEFAULTS[variant.value]
    if resume and fit.has_run(run):
        config = fit.Config.of_record(fit.load_record(run)[0])
    given: dict[str, Any] = {
        "init": init,
        "teachers": tuple(teacher or ()) or None,
        "recognizer": recognizer,
        "stages": None if epochs is None else _stages(epochs),
        "batch_size": batch_size,
        "peak_learning_rate": peak_learning_rate,
        "fairface_share": fairface_share,
        "seed": seed,
    }
    config = dataclasses.replace(
        config, **{name: value for name, value in given.items() if value is not None}
    )
    if config.teachers and config.recognizer is not None:
        raise typer.BadParameter("a teacher or a recognizer: name one of the two")
    fit.train(
        config,
        data.load(cache),
        run,
        resume=resume,
        tensorboard=tensorboard,
        log=lambda line: out.print(line, highlight=False),
    )


def _stages(text: str) -> tuple[tuple[int, int], ...]:
    if not re.fullmatch(r"([1-9]\d*:[1-9]\d*,)+", f"{text},"):
        raise typer.BadParameter("--epochs wants SIDE:EPOCHS, comma-separated, such as 96:4,128:4")
    return tuple((int(side), int(epochs)) for side, epochs in (stage.split(":") for stage in text.split(",")))


@app.command()
@_in_one_sentence
def calibrate(
    model_id: IdArgument, cache: CacheOption = DEFAULT_CACHE, runs: RunsOption = DEFAULT_RUNS
) -> None:
    """Show what calibration a run needs, on the validation split. `export` does the same and builds it in."""
    from training import export, report

    _, calibrated = export.calibrated(_run(runs, model_id), data.load(cache))
    _print(report.calibration(calibrated))


@app.command(name="export")
@_in_one_sentence
def export_(
    model_id: IdArgument,
    cache: CacheOption = DEFAULT_CACHE,
    runs: RunsOption = DEFAULT_RUNS,
    models: ModelsOption = DEFAULT_MODELS,
) -> None:
    """Calibrate a run, convert it to ONNX, measure that on the test splits, and write all that is served of it."""
    from training import export, report

    for measured in export.export(model_id.value, _run(runs, model_id), data.load(cache), models):
        _print(report.grids(measured)[0])
    out.print(f"Written: {models / model_id.value}.onnx, .json, .md, .keras", highlight=False, soft_wrap=True)


@app.command()
@_in_one_sentence
def evaluate(
    model_id: IdArgument,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    cache: CacheOption = DEFAULT_CACHE,
    models: ModelsOption = DEFAULT_MODELS,
) -> None:
    """Measure an exported model, as it is served, on the test splits; ID/evaluation.json keeps the figures."""
    from training import evaluate, plots, report

    catalogue = load_catalogue(models)
    variant = catalogue[model_id.value].variant
    measured = evaluate.measure(
        catalogue[variant.id].session, variant.age_estimate, variant.age_interval, data.load(cache)
    )
    evaluate.store(measured, models / variant.id)
    if as_json:
        typer.echo(json.dumps(evaluate.as_json(measured), indent=2))
        return
    for part in measured:
        for grid in report.grids(part):
            _print(grid)
        for sentence in report.calibration_sentences(part) + report.gap_sentences(part):
            out.print(f"{plots.NAMES[part.dataset]}. {sentence}", highlight=False)


@app.command(name="evaluate-service")
@_in_one_sentence
def evaluate_service(
    model_id: IdArgument,
    utkface: Annotated[Path | None, typer.Option(help="UTKFace's archive or folder, as prepared.")] = None,
    fairface: Annotated[Path | None, typer.Option(help="FairFace's archive or folder, as prepared.")] = None,
    url: Annotated[
        str | None, typer.Option(help="Address of a running service; without it, one is started for this.")
    ] = None,
    split: Annotated[SplitName, typer.Option(help="Whose images are sent.")] = SplitName.TEST,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    yunet: Annotated[
        Path | None,
        typer.Option(envvar=YUNET_VARIABLE, help="YuNet's file, for the one that is started."),
    ] = None,
    cache: CacheOption = DEFAULT_CACHE,
    models: ModelsOption = DEFAULT_MODELS,
) -> None:
    """Measure the whole service: original images through POST /predict, with each detector."""
    from training import through_service

    originals = {data.UTKFACE: utkface, data.FAIRFACE: fairface}
    given = {dataset: path for dataset, path in originals.items() if path is not None}
    if not given:
        raise typer.BadParameter("there is nothing to send: add --utkface PATH, --fairface PATH or both")
    faces = data.load(cache)
    with (
        through_service.started(models, model_id.value, yunet) if url is None else nullcontext(url) as address
    ):
        measured = [
            through_service.measure(address, model_id.value, dataset, path, faces, split.value)
            for dataset, path in given.items()
        ]
    if as_json:
        typer.echo(json.dumps({part.dataset: part.as_json() for part in measured}, indent=2))
        return
    for part in measured:
        for grid in part.grids():
            _print(grid)


@app.command()
@_in_one_sentence
def template(
    utkface: UtkFaceOption,
    yunet: Annotated[Path, typer.Option(envvar=YUNET_VARIABLE, help="YuNet's file.")],
) -> None:
    """Measure where the detectors put a face on UTKFace's chips: the constants of `app/agegender/vision/align.py`."""
    from training.template import measure_template

    detector_file.find(yunet)  # says what is wrong with it, if anything is
    out.print(str(measure_template(utkface, YuNet(yunet), Haar())), highlight=False, soft_wrap=True)


@app.command()
@_in_one_sentence
def conditions(
    yunet: Annotated[Path, typer.Option(envvar=YUNET_VARIABLE, help="YuNet's file.")],
    utkface: Annotated[Path | None, typer.Option(help="UTKFace.tar.gz as published, or its folder.")] = None,
    fairface: Annotated[Path | None, typer.Option(help="Folder or archive of FairFace.")] = None,
    cache: CacheOption = DEFAULT_CACHE,
    models: ModelsOption = DEFAULT_MODELS,
    model: str = "age_gender_B",
    split: SplitName = SplitName.VALIDATION,
    count: Annotated[int, typer.Option(help="Photographs of each data set.")] = 1000,
    turns: Annotated[bool, typer.Option(help="Measure turned photographs; else the warnings.")] = False,
) -> None:
    """Measure what turned and poor photographs do to the estimates, and what the warnings tell of it."""
    from agegender.inference.pipeline import Pipeline

    from training import conditions as measured
    from training.through_service import photographs_of

    faces, detector = data.load(cache), YuNet(yunet)
    catalogue = load_catalogue(models)
    images = []
    for dataset, path in ((data.UTKFACE, utkface), (data.FAIRFACE, fairface)):
        if path is not None:
            with data.as_folder(path) as folder:
                images += measured.read(photographs_of(dataset, folder, faces, split.value), dataset, count)
    if turns:
        _print(measured.measure_turns(images, detector, Pipeline(catalogue, yunet=detector), model))
        return
    session, variant = catalogue[model].session, catalogue[model].variant
    for grid in measured.measure_warnings(images, detector, session, variant):
        _print(grid)


def _run(runs: Path, model_id: ModelId) -> Path:
    return runs / model_id.value.removeprefix("age_gender_")


def _print(grid: report.Grid) -> None:
    table = Table(*grid.columns, title=grid.title, title_justify="left")
    for column in table.columns[1:]:
        column.justify, column.overflow = "right", "fold"
    for row in grid.rows:
        table.add_row(*row)
    out.print(table)


def main() -> None:
    """Entry point of `python -m training`."""
    # Or a stop would leave unpacked archives, and the service that was started, behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        app()
    except ModuleNotFoundError as error:
        err.print(f"training: {error.name} is not installed: run `make env-train` first.", markup=False)
        raise SystemExit(1) from error
