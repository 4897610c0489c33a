"""The training job's command line: prepare, train, calibrate, evaluate, export."""

from __future__ import annotations

import dataclasses
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from app.vision.detect import YuNet
from training import data

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Make the age-and-gender models from UTKFace.")
console = Console()

CacheOption = Annotated[Path, typer.Option(help="Folder of the prepared faces.")]
RunsOption = Annotated[Path, typer.Option(help="Folder that holds one folder per training run.")]
DEFAULT_CACHE = Path("data/cache")
DEFAULT_RUNS = Path("runs")


class VariantName(StrEnum):
    """The two architectures."""

    A = "A"
    B = "B"


@app.command()
def prepare(
    utkface: Annotated[Path, typer.Option(help="UTKFace.tar.gz as published, or its folder.")],
    fairface: Annotated[Path | None, typer.Option(help="FairFace's archive or folder.")] = None,
    yunet: Annotated[
        Path | None, typer.Option(envvar="AGEGENDER_YUNET_PATH", help="YuNet's model file, to crop FairFace with.")
    ] = None,
    cache: CacheOption = DEFAULT_CACHE,
) -> None:
    """Crop, label and split the data sets into one cache."""
    if fairface is not None and yunet is None:
        raise typer.BadParameter("FairFace's faces must be found first: add --yunet PATH")
    detector = None if yunet is None else YuNet(yunet)
    faces, summaries = data.prepare(cache, utkface, fairface, detector)
    files = Table("data set", "used", "repaired", "malformed", "unreadable", "no face", title="Files")
    for name, summary in summaries.items():
        dropped = (summary.repaired, summary.malformed, summary.unreadable, summary.no_face)
        files.add_row(name, str(summary.used), *(str(len(names)) for names in dropped))
    console.print(files)
    for name, summary in summaries.items():
        for what in ("repaired", "malformed", "unreadable"):
            for file in getattr(summary, what):
                console.print(f"{name}, {what}: {file}", highlight=False)
    splits = Table("data set", "train", "validation", "test", title="Faces")
    for name in summaries:
        counts = (len(faces.indices(split, name)) for split in ("train", "validation", "test"))
        splits.add_row(name, *map(str, counts))
    console.print(splits)


@app.command()
def train(
    variant: Annotated[VariantName, typer.Argument(help="A: from scratch; B: MobileNetV2.")],
    init: Annotated[
        str | None, typer.Option(help="B's first weights: 'imagenet' to download them, or a weights file.")
    ] = None,
    epochs: Annotated[
        str | None, typer.Option(help="Stages as SIDE:EPOCHS, comma-separated, such as 96:4,128:4.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    resume: Annotated[bool, typer.Option(help="Go on from the last whole epoch of an earlier run.")] = False,
    cache: CacheOption = DEFAULT_CACHE,
    runs: RunsOption = DEFAULT_RUNS,
) -> None:
    """Train a variant; the best epoch by validation is kept."""
    from training import fit  # Keras takes seconds to import: other commands shall not wait for it

    config = dataclasses.replace(fit.DEFAULTS[variant.value], seed=seed)
    if init is not None:
        config = dataclasses.replace(config, init=init)
    if epochs is not None:
        stages = tuple((int(side), int(n)) for side, n in (stage.split(":") for stage in epochs.split(",")))
        config = dataclasses.replace(config, stages=stages)
    fit.train(config, data.load(cache), runs / variant.value, resume=resume, log=console.print)


def main() -> None:
    """Entry point of `agegender-train`."""
    app()
