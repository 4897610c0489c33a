"""Pictures of a training run and of a model's errors, as small PNG files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from training.evaluate import CALIBRATION_BINS, Outcome, confidence_bins, gender_correct, parts, signed_error

BLUE, ORANGE, GREY = "#2b6cb0", "#dd6b20", "#a0aec0"


def learning_curves(history: Sequence[dict[str, float]], path: Path) -> None:
    """Loss, age error and gender accuracy by epoch; a ring at the one that was kept."""
    figure, axes = _three()
    epochs = [entry["epoch"] + 1 for entry in history]
    best = min(range(len(history)), key=lambda epoch: history[epoch]["val_loss"])
    curves = (
        ("training loss", "loss"),
        ("validation, age error, years", "val_age_error"),
        ("validation, gender accuracy", "val_gender_accuracy"),
    )
    for axis, (title, key) in zip(axes, curves, strict=True):
        values = [entry[key] for entry in history]
        axis.plot(epochs, values, color=BLUE, marker=".")
        axis.plot(epochs[best], values[best], "o", markersize=9, fillstyle="none", color=BLUE)
        axis.set(title=title, xlabel="epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[2].yaxis.set_major_formatter(PercentFormatter(1))
    figure.savefig(path)


def errors(outcome: Outcome, path: Path) -> None:
    """Estimated against true age as the density of faces, error by decade, and reliability of gender."""
    figure, (scatter, decades, gender) = _three()
    edges = np.arange(0, 102, 2) - 0.5
    scatter.hist2d(outcome.age_low, outcome.years, bins=[edges, edges], norm=LogNorm(vmin=0.4), cmap="Blues")
    scatter.plot([0, 100], [0, 100], color=ORANGE, linewidth=1)
    scatter.set(title="Age", xlabel="true, years", ylabel="estimated, years", aspect="equal")

    error = np.abs(signed_error(outcome))
    groups = [(name, members) for kind, name, members in parts(outcome) if kind == "true"]
    decades.bar(range(len(groups)), [error[members].mean() for _, members in groups], color=BLUE)
    decades.set_xticks(range(len(groups)), [name for name, _ in groups], rotation=90, fontsize=8)
    decades.set(title="Age error by decade", ylabel="MAE, years")

    confidence = np.maximum(outcome.male_probability, 1 - outcome.male_probability)
    which, correct = confidence_bins(confidence), gender_correct(outcome)
    bins = [which == b for b in range(CALIBRATION_BINS) if (which == b).any()]
    gender.scatter(
        [confidence[chosen].mean() for chosen in bins],
        [correct[chosen].mean() for chosen in bins],
        s=[10 + 250 * chosen.mean() for chosen in bins],
        color=BLUE,
        alpha=0.8,
    )
    gender.plot([0.5, 1], [0.5, 1], color=GREY, linewidth=1, zorder=0)
    gender.set(title="Gender", xlabel="probability given", ylabel="share that is right", xlim=(0.48, 1.02))
    gender.xaxis.set_major_formatter(PercentFormatter(1))
    gender.yaxis.set_major_formatter(PercentFormatter(1))
    figure.savefig(path)


def _three() -> tuple[Figure, list[Axes]]:
    figure = Figure((11.2, 3.4), dpi=90, layout="constrained")
    axes = list(figure.subplots(1, 3))
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
        axis.set_axisbelow(True)
        axis.title.set_fontsize(10)
    return figure, axes
