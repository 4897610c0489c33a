"""Pictures of a data set, a training run and a model's errors, as small PNG files."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from training.data import FAIRFACE, UTKFACE, Faces
from training.evaluate import CALIBRATION_BINS, Group, Outcome, confidence_bins, gender_correct

BLUE, ORANGE, GREY = "#2b6cb0", "#dd6b20", "#a0aec0"
NAMES = {UTKFACE: "UTKFace", FAIRFACE: "FairFace"}

_DPI = 90


def age_distribution(faces: Faces, path: Path) -> None:
    """Faces per year of age, for each data set; a bin of several years is spread evenly over them."""
    datasets = [name for name in NAMES if (faces.dataset == name).any()]
    figure, axes = _figure(len(datasets), "Faces per year of age")
    for axis, dataset in zip(axes, datasets, strict=True):
        chosen = faces.dataset == dataset
        for male, colour, label in ((False, ORANGE, "female"), (True, BLUE, "male")):
            rows = np.flatnonzero(chosen & (faces.male == male))
            counts = np.zeros(int(faces.age_high.max()) + 1)
            for low, high in zip(faces.age_low[rows], faces.age_high[rows], strict=True):
                counts[low : high + 1] += 1 / (high + 1 - low)
            axis.stairs(counts, np.arange(len(counts) + 1) - 0.5, color=colour, label=label, linewidth=1.3)
        axis.set(title=f"{NAMES[dataset]}, {chosen.sum():,} faces", xlabel="age, years", ylim=(0, None))
        axis.legend(frameon=False)
    _save(figure, path)


def learning_curves(history: Sequence[dict[str, float]], path: Path) -> None:
    """Loss, age error and gender accuracy by epoch; a dotted line where the images grow, a ring at the best."""
    figure, axes = _figure(3)
    epochs = [entry["epoch"] for entry in history]
    best = min(history, key=lambda entry: entry["score"])
    curves = (
        ("training loss", {"loss": ""}),
        ("validation, age MAE, years", {f"{name}_age_mae": name for name in NAMES}),
        ("validation, gender accuracy", {f"{name}_gender_accuracy": name for name in NAMES}),
    )
    for axis, (title, keys) in zip(axes, curves, strict=True):
        for (key, name), colour in zip(keys.items(), (BLUE, ORANGE), strict=False):
            if key in history[0]:
                values = [entry[key] for entry in history]
                axis.plot(epochs, values, color=colour, marker=".", label=NAMES.get(name))
                axis.plot(best["epoch"], best[key], "o", markersize=9, fillstyle="none", color=colour)
        for before, after in pairwise(history):
            if after["size"] != before["size"]:
                axis.axvline((before["epoch"] + after["epoch"]) / 2, color=GREY, linestyle=":")
        axis.set(title=title, xlabel="epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        if f"{FAIRFACE}_age_mae" in history[0] and "" not in keys.values():
            axis.legend(frameon=False)
    axes[2].yaxis.set_major_formatter(PercentFormatter(1))
    _save(figure, path)


def age_scatter(outcome: Outcome, path: Path) -> None:
    """Estimated against true age, as the density of faces."""
    figure, (axis,) = _figure(1, size=3.2)
    edges = np.arange(0, 102, 2) - 0.5
    counts, _, _, picture = axis.hist2d(
        outcome.age_low, outcome.years, bins=[edges, edges], norm=LogNorm(vmin=0.4), cmap="Blues"
    )
    axis.plot([0, 100], [0, 100], color=ORANGE, linewidth=1)
    axis.set(xlabel="true age, years", ylabel="estimated age, years", aspect="equal")
    bar = figure.colorbar(picture, ax=axis, label="faces in 2 x 2 years", format="%d")
    bar.set_ticks([tick for tick in (1, 2, 5, 10, 20, 50, 100) if tick <= counts.max()])
    bar.minorticks_off()
    _save(figure, path)


def error_by_decade(decades: Sequence[Group], path: Path) -> None:
    """Mean absolute error of each decade of age with its 95 % interval, and the number of faces."""
    figure, (axis,) = _figure(1, size=6.4)
    figures = [decade.figures["age_mae"] for decade in decades]
    values = np.array([figure.value for figure in figures])
    ends = np.array([[figure.low, figure.high] for figure in figures])
    whiskers = np.abs(ends - values[:, None]).T
    axis.bar(range(len(values)), values, color=BLUE, width=0.7)
    axis.errorbar(range(len(values)), values, whiskers, fmt="none", color="black", linewidth=1, capsize=3)
    axis.set_xticks(range(len(decades)), [f"{decade.name}\n({decade.n})" for decade in decades], fontsize=8)
    axis.set(xlabel="true age, years (faces)", ylabel="age MAE, years")
    _save(figure, path)


def reliability(outcome: Outcome, coverage: float, path: Path) -> None:
    """How often gender is right against its probability, and how many ages the central intervals hold."""
    figure, (gender, interval) = _figure(2)
    confidence = np.maximum(outcome.male_probability, 1 - outcome.male_probability)
    which, correct = confidence_bins(confidence), gender_correct(outcome)
    bins = [which == b for b in range(CALIBRATION_BINS) if (which == b).any()]
    said = [confidence[chosen].mean() for chosen in bins]
    right = [correct[chosen].mean() for chosen in bins]
    sizes = [10 + 250 * chosen.mean() for chosen in bins]
    gender.scatter(said, right, s=sizes, color=BLUE, alpha=0.8)
    gender.set(
        title="Gender",
        xlabel="probability of the label given",
        ylabel="share that is right",
        xlim=(0.48, 1.02),
    )
    gender.plot([0.5, 1], [0.5, 1], color=GREY, linewidth=1, zorder=0)

    nominal = np.linspace(0, 1, 101)
    held = [(np.abs(outcome.share_below - 0.5) <= level / 2).mean() for level in nominal]
    interval.plot([0, 1], [0, 1], color=GREY, linewidth=1)
    interval.plot(nominal, held, color=BLUE, label="as the network says")
    served = ((outcome.low <= outcome.age_low) & (outcome.age_low <= outcome.high)).mean()
    interval.plot(coverage, served, "o", color=ORANGE, label="as served, calibrated")
    interval.set(title="Age interval", xlabel="share of ages promised", ylabel="share of ages held")
    interval.legend(frameon=False, loc="lower right")
    for axis in (gender, interval):
        axis.xaxis.set_major_formatter(PercentFormatter(1))
        axis.yaxis.set_major_formatter(PercentFormatter(1))
    _save(figure, path)


def _figure(columns: int, title: str | None = None, size: float = 3.6) -> tuple[Figure, list[Axes]]:
    width = size * columns if columns > 1 else size * 1.25
    figure = Figure((width + 0.4, 3.4), layout="constrained")
    if title is not None:
        figure.suptitle(title, fontsize=11)
    axes = list(figure.subplots(1, columns, squeeze=False)[0])
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
        axis.set_axisbelow(True)
        axis.title.set_fontsize(10)
    return figure, axes


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=_DPI, format="png")
