"""What was measured, in words and tables: for the terminal, for the metadata and for the model card."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agegender.inference.ages import DEFAULT_COVERAGE
from agegender.inference.variants import Variant

from training import plots
from training.data import FAIRFACE, UTKFACE, Faces
from training.evaluate import (
    FEW,
    MANY,
    Calibrated,
    Figure,
    Gap,
    Group,
    Measured,
    Outcome,
    absolute_error,
    coverage_by_decade,
    expected_calibration_error,
    interval_covers,
    interval_width,
    stages,
)
from training.plots import NAMES
from training.splits import TEST, TRAIN, VALIDATION


@dataclass(frozen=True)
class Grid:
    """A table: its first column names the rows."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]

    def markdown(self) -> str:
        """As a table of a Markdown document, without the title."""
        lines = [self.columns, ("---", *["---:"] * (len(self.columns) - 1)), *self.rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _number(figure: Figure, digits: int = 2) -> str:
    return f"{figure.value:.{digits}f} ({figure.low:.{digits}f}-{figure.high:.{digits}f})"


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"


def _percent(figure: Figure) -> str:
    return f"{100 * figure.value:.1f} % ({100 * figure.low:.1f}-{100 * figure.high:.1f})"


def _signed(figure: Figure) -> str:
    value, low, high = (f"{round(end, 1) + 0.0:+.1f}" for end in dataclasses.astuple(figure))
    return f"{value} ({low} to {high})"


COLUMNS: dict[str, tuple[str, Callable[[Figure], str]]] = {
    "age_mae": ("age MAE, years", _number),
    "age_bias": ("bias, years", _signed),
    "age_cs5": ("within 5 years", _percent),
    "right_bin": ("age in the right bin", _percent),
    "right_or_next_bin": ("in it or the next", _percent),
    "gender_accuracy": ("gender right", _percent),
    "interval_coverage": ("interval holds", _percent),
    "interval_width": ("its width, years", lambda figure: f"{figure.value:.1f}"),
}
"""What a figure is called, and how it is written; the width's interval is in the JSON alone."""


def grids(measured: Measured) -> list[Grid]:
    """All tables of one data set."""
    kinds = (
        ("All faces and ranges of age", ("all", "age")),
        ("By decade of age", ("decade",)),
        ("By gender and by race", ("gender", "race")),
        ("By race and gender", ("race and gender",)),
    )
    tables = [
        _by_group(title, groups)
        for title, of in kinds
        if (groups := [group for group in measured.groups if group.kind in of])  # races may be unknown
    ]
    tables += [_gender_by_age(measured), _mae_by_decade(measured)]
    return [Grid(f"{NAMES[measured.dataset]}: {table.title}", table.columns, table.rows) for table in tables]


def _by_group(title: str, groups: Sequence[Group]) -> Grid:
    keys = list(groups[0].figures)
    rows = [
        (group.name, f"{group.n:,}", *(COLUMNS[key][1](group.figures[key]) for key in keys))
        for group in groups
    ]
    return Grid(title, ("", "faces", *(COLUMNS[key][0] for key in keys)), rows)


def _gender_by_age(measured: Measured) -> Grid:
    named = {group.name: group for group in measured.groups}
    ranges = [name for name, _ in stages(measured.outcome)]
    rows = []
    for kind in ("gender", "race"):
        for part in measured.of_kind(kind):
            cells: list[str] = []
            for name in ranges:
                group = named.get(f"{part.name}, {name}")
                cells += (
                    ["0", ""]
                    if group is None
                    else [f"{group.n:,}", _percent(group.figures["gender_accuracy"])]
                )
            rows.append((part.name, *cells))
    columns = [column for name in ranges for column in (f"faces, {name}", "gender right")]
    return Grid("Gender, small children apart", ("", *columns), rows)


def _mae_by_decade(measured: Measured) -> Grid:
    named = {group.name: group for group in measured.groups}
    parts = [group.name for kind in ("gender", "race") for group in measured.of_kind(kind)]

    def cell(name: str) -> str:
        group = named.get(name)
        return "" if group is None or group.n < FEW else _number(group.figures["age_mae"], 1)

    rows = [
        (decade.name, *(cell(f"{part}, {decade.name}") for part in parts))
        for decade in measured.of_kind("decade")
    ]
    title = f"Age MAE in years by decade, gender and race, where there are at least {FEW} faces"
    return Grid(title, ("", *parts), rows)


def calibration_sentences(measured: Measured) -> list[str]:
    """What tables do not hold: calibration of gender, and how evenly the interval holds ages."""
    return [
        f"Expected calibration error of gender: {_share(measured.gender_calibration_error)}.",
        f"In decades of at least {MANY} faces the interval holds {_coverage_range(measured.outcome)}.",
    ]


def gap_sentences(measured: Measured) -> list[str]:
    """The largest gaps between groups of one race and gender."""
    return [_gap_sentence(gap) for gap in measured.gaps]


def _gap_sentence(gap: Gap) -> str:
    def write(value: float) -> str:
        return f"{value:.2f}" if years else f"{100 * value:.1f}"

    years = gap.measure == "age_mae"
    title = {
        "age_mae": "age MAE",
        "gender_accuracy": "gender accuracy",
        "interval_coverage": "interval coverage",
    }
    difference, low, high = map(write, dataclasses.astuple(gap.difference))
    highest, lowest = (
        f"{end.name} ({write(end.value)}{'' if years else ' %'}, {end.n:,} faces)"
        for end in (gap.highest, gap.lowest)
    )
    return (
        f"Largest gap in {title[gap.measure]}, {gap.among}: {difference} "
        f"{'years' if years else 'percentage points'} ({low} to {high}), from {highest} down to {lowest}."
    )


def _coverage_range(outcome: Outcome) -> str:
    shares = coverage_by_decade(outcome)
    if not shares:
        return "unknown shares: there is no such decade"
    least, most = min(shares, key=shares.__getitem__), max(shares, key=shares.__getitem__)
    return f"{_share(shares[least])} ({least}) to {_share(shares[most])} ({most})"


def calibration(calibrated: Calibrated) -> Grid:
    """What calibration chose and changed, on the validation split that it was fitted on."""
    before, after, chosen = calibrated.before, calibrated.after, calibrated.chosen

    def row(name: str, write: Callable[[Any], str], measure: Callable[[Any], Any]) -> tuple[str, ...]:
        return (name, write(measure(before)), write(measure(after)))

    return Grid(
        f"Calibration on {len(after):,} validation faces",
        ("", "without", "with"),
        [
            ("gender temperature", "1", f"{chosen.gender_temperature:.3f}"),
            row("expected calibration error of gender", _share, expected_calibration_error),
            ("age that is named", "expectation", chosen.age_estimate),
            row(
                "its mean absolute error, years",
                "{:.3f}".format,
                lambda outcome: absolute_error(outcome).mean(),
            ),
            row("ages that the interval holds", _share, lambda outcome: interval_covers(outcome).mean()),
            row(f"of decades of at least {MANY} faces", str, _coverage_range),
            row("mean width, years", "{:.2f}".format, lambda outcome: interval_width(outcome).mean()),
        ],
    )


def metrics(measured: Sequence[Measured]) -> dict[str, float]:
    """The figures on the test splits that go into the metadata; those of UTKFace have no prefix."""
    result: dict[str, float] = {}
    for part in measured:
        prefix = "" if part.dataset == UTKFACE else f"{part.dataset}_"
        result[f"{prefix}n"] = part.all.n
        for key, figure in part.all.figures.items():
            result[prefix + key] = figure.value
            if key in ("age_mae", "gender_accuracy"):
                result[f"{prefix}{key}_low"], result[f"{prefix}{key}_high"] = figure.low, figure.high
        for group in part.of_kind("age"):
            if group.name == "5 and older" and part.dataset == UTKFACE:
                result["gender_accuracy_from_5_years"] = group.figures["gender_accuracy"].value
        result[f"{prefix}gender_calibration_error"] = part.gender_calibration_error
    # Not to four places: what shows three of them rounds once more.
    return {key: round(value, 6) for key, value in result.items()}


def split_counts(faces: Faces) -> Grid:
    """How many faces of each data set are in each split."""
    rows = [
        (NAMES[dataset], *(f"{len(faces.indices(split, dataset)):,}" for split in (TRAIN, VALIDATION, TEST)))
        for dataset in NAMES
        if (faces.dataset == dataset).any()
    ]
    return Grid("Faces", ("", TRAIN, VALIDATION, TEST), rows)


def trained_on(faces: Faces) -> str:
    """The training splits in a few words."""
    counts = [
        f"{len(faces.indices(TRAIN, dataset)):,} faces of {NAMES[dataset]}"
        for dataset in NAMES
        if len(faces.indices(TRAIN, dataset))
    ]
    return " and ".join(counts)


_SOURCES = {
    UTKFACE: (
        "[UTKFace](https://susanqq.github.io/UTKFace/) (Zhang, Song and Qi 2017), aligned and cropped faces with age, "
        "gender and race in the file name: **for non-commercial research only**, and these weights with it."
    ),
    FAIRFACE: (
        "[FairFace](https://github.com/joojs/fairface) (Kärkkäinen and Joo 2021), faces with age in nine bins, gender "
        "and race: **CC BY 4.0**. Cropped by this service's own detector and alignment."
    ),
}

_RECOGNIZER = (
    "Features of the training faces above by [InsightFace](https://github.com/deepinsight/insightface)'s "
    "`w600k_mbf.onnx`, a MobileFaceNet that learned on WebFace600K to tell people apart, and what heads on "
    "them say that were trained on those faces: **for non-commercial research only**."
)


@dataclass(frozen=True)
class Card:
    """A model card and the pictures it shows: whatever is a figure in it was measured or recorded."""

    variant: Variant
    record: dict[str, Any]
    """What the training run recorded of itself."""
    history: list[dict[str, float]]
    calibrated: Calibrated
    measured: list[Measured]
    faces: Faces
    compared: int
    difference: float
    """Largest difference between ONNX Runtime's and Keras' probabilities on `compared` crops."""

    def write(self, folder: Path) -> None:
        """Write `ID.md`, and its pictures into the folder `ID`."""
        pictures = folder / self.variant.id
        pictures.mkdir()
        utkface = self.measured[0]
        plots.learning_curves(self.history, pictures / "curves.png")
        plots.age_scatter(utkface.outcome, pictures / "age.png")
        plots.error_by_decade(utkface.of_kind("decade"), pictures / "decades.png")
        plots.reliability(utkface.outcome, DEFAULT_COVERAGE, pictures / "reliability.png")
        (folder / f"{self.variant.id}.md").write_text(self.text())

    def text(self) -> str:
        """The card in Markdown."""
        sections = {
            "Intended use": self._use(),
            "Out of scope": self._out_of_scope(),
            "Data and licences": self._data(),
            "Training": self._training(),
            "Metrics": self._metrics(),
            "Groups": self._groups(),
            "Calibration": self._calibration(),
            "Limits": self._limits(),
        }
        return self._head() + "".join(f"\n## {title}\n\n{text.strip()}\n" for title, text in sections.items())

    def _head(self) -> str:
        variant, group = self.variant, self.measured[0].all
        age = group.figures["age_mae"]
        rows: list[tuple[str, ...]] = [
            ("mean absolute error of age", f"{age.value:.2f} years", f"{age.low:.2f}-{age.high:.2f}")
        ]
        for key, name in (
            ("age_cs5", "age within 5 years"),
            ("gender_accuracy", "gender right"),
            ("interval_coverage", "age interval holds the true age"),
        ):
            share = group.figures[key]
            rows.append((name, _share(share.value), f"{100 * share.low:.1f}-{100 * share.high:.1f}"))
        figures = Grid("", (f"on {group.n:,} test faces of UTKFace", "", "95 % interval"), rows)
        return f"""# {variant.id}

{variant.description} It takes a face, aligned and cropped to {variant.input_size} x {variant.input_size} pixels, and
says an age with an interval, and a gender with a probability.

{figures.markdown()}

| | |
| --- | --- |
| architecture | {variant.architecture} |
| parameters | {variant.parameters:,} |
| made | {variant.created:%Y-%m-%d} |
| licence | {variant.licence} |
| served file | `{variant.id}.onnx`, SHA-256 `{variant.sha256}` |

`python -m training evaluate {variant.id}` measures every figure below again, from the served file and the prepared
faces, and keeps them in `{variant.id}/evaluation.json`.
"""

    def _use(self) -> str:
        return """
Research and teaching: estimates of age and of the gender label for faces in photographs, for aggregate and
exploratory work in which single errors do no harm, through this project's service, which finds and aligns the faces.
"""

    def _out_of_scope(self) -> str:
        return """
- Any decision about a person: access, prices, hiring, policing, proof of age.
- Commercial use: the training data forbids it.
- Identity. "Gender" is the binary label of the training data, given by people who looked at pictures; it says nothing
  about how anyone identifies. Race labels were used to compare errors only: the model neither takes nor gives them.
- Drawings, masks, strong blur, profiles, and crops made in another way than the service's.
"""

    def _data(self) -> str:
        used = [_SOURCES[dataset] for dataset in NAMES if (self.faces.dataset == dataset).any()]
        if self.record["recognizer"] is not None:
            used.append(_RECOGNIZER)
        lines = "\n".join(f"- {source}" for source in used)
        return f"""
{lines}

{split_counts(self.faces).markdown()}

Splits follow from a hash of the file name; near-duplicates, found by a perceptual hash, are always in the same split.
The validation splits chose the epoch and the calibration; the test splits chose nothing. SHA-256 of the labels and
splits: `{self.record["data_sha256"]}`.
"""

    def _training(self) -> str:
        record, history = self.record, self.history
        best = min(history, key=lambda entry: entry["score"])
        hours = sum(entry["seconds"] for entry in history) / 3600
        data = Grid(
            "",
            ("", "value"),
            [
                ("first weights", _first_weights(record)),
                ("teachers", ", ".join(map(_name, record["teachers"])) or "none"),
                ("recognizer", _name(record["recognizer"]) if record["recognizer"] else "none"),
                ("epochs planned", _planned(record)),
                ("epochs run, best", f"{len(history)}, {best['epoch']:.0f}"),
                ("FairFace's faces in an epoch", _share(record["fairface_share"])),
                ("batch", f"{record['batch_size']}"),
                (
                    "optimiser",
                    f"AdamW, peak {record['peak_learning_rate']:g}, weight decay {record['weight_decay']:g}",
                ),
                (
                    "learning rate",
                    f"rises over {_share(record['warm_up'])} of the steps, falls along a cosine",
                ),
                ("dropout", f"{record['dropout']:g}"),
                ("seed", f"{record['seed']}"),
                ("time of this run", f"{hours:.1f} hours"),
                ("code", f"commit `{record['commit'] or 'unknown'}`"),
                ("libraries", f"Keras {record['keras']} on {record['backend']}"),
            ],
        )
        before = ""
        if record["init"] not in (None, "imagenet"):
            before = (
                "\n\nThe table is of the last run alone, which went on from what those before had learned."
            )
        by_whom = ""
        if record["recognizer"] is not None:
            by_whom = (
                "\n\nThis run had no labels: it learned what heads on the recognizer's features say, and the features, "
                "of faces that\nwere mostly mixed of two."
            )
        return f"""
Age is learned as a distribution over 0 to 100 years: the divergence from a narrow Gaussian around the label plus the
error of the expectation, or the likelihood of the bin where the label is a bin; gender by cross-entropy. Augmentation
shifts, turns, scales and mirrors, changes colours, blurs, adds noise and blanks out rectangles.{by_whom}

{data.markdown()}{before}

![Loss, age error and gender accuracy by epoch]({self.variant.id}/curves.png)

The ring is the epoch that was kept: the least product of UTKFace's age error and gender error on validation.
"""

    def _metrics(self) -> str:
        utkface = self.measured[0]
        tables = _sections(grids(utkface)[:2])
        text = f"""
Measured through the exported file, on the test splits. Brackets hold 95 % bootstrap intervals. Age is the
{self.variant.age_estimate} of the distribution; bias is estimate less true age. FairFace says an age by its bin: there
an error is by how many years the bin is missed, and an interval holds where it meets the bin. A bin that is not
within a range of ages as a whole is left out of it: of FairFace, those of 5 and older are of 10 and older.

{tables}

![Estimated against true age]({self.variant.id}/age.png)

![Age error by decade]({self.variant.id}/decades.png)
"""
        for other in self.measured[1:]:
            text += "\n" + _sections(grids(other)[:2])
        return text

    def _groups(self) -> str:
        gaps = [f"- {NAMES[part.dataset]}. {line}" for part in self.measured for line in gap_sentences(part)]
        tables = []
        for part in self.measured:
            _, _, race_and_gender_apart, both, small_children, *by_decade = grids(part)
            tables += [_sections([race_and_gender_apart, small_children]), _folded([both, *by_decade])]
        intro = (
            f"Gaps are between groups of one race and gender. Those of fewer than {FEW} faces are left out, and the "
            "interval of a gap takes its two groups as given."
        )
        return "\n\n".join(["\n".join(gaps), intro, *tables])

    def _calibration(self) -> str:
        lines = "\n".join(
            f"- {NAMES[part.dataset]}, test. {line}"
            for part in self.measured
            for line in calibration_sentences(part)
        )
        return f"""
On the validation split of UTKFace a temperature on the gender logit was fitted, the age that errs less was chosen,
and the ends of the age interval, quantiles of the distribution, were moved by a curve that rises with age, so that
faces of every age are held equally often. It is checked on test:

{calibration(self.calibrated).markdown()}

{lines}

![Reliability of gender and of the age interval]({self.variant.id}/reliability.png)

Left: each dot is a bin of probabilities, its area the share of faces in it. Right: central intervals of every width.
"""

    def _limits(self) -> str:
        return f"""
- Labels of age and gender are themselves estimates by people or programs; no figure here is better than they are.
- UTKFace and FairFace are pictures from the web: famous people, posed and well lit, are over-represented.
- Error grows with age; see the tables. Ages end at 100.
- In children under 5 the gender label can hardly be seen in the face.
- The interval is made to hold the true age in {DEFAULT_COVERAGE:.0%} of faces like UTKFace's of about
  each age, not in each other group.
- On {self.compared} validation faces ONNX Runtime and Keras differed by at most {self.difference:.1g} in any
  probability.
"""


def _folded(tables: Sequence[Grid]) -> str:
    """Each table behind its title, which opens it."""
    return "\n\n".join(
        f"<details>\n<summary>{table.title}</summary>\n\n{table.markdown()}\n\n</details>" for table in tables
    )


def _sections(tables: Sequence[Grid]) -> str:
    return "\n\n".join(f"### {table.title}\n\n{table.markdown()}" for table in tables)


def _first_weights(record: dict[str, Any]) -> str:
    init = record["init"]
    if init is None or init == "imagenet":
        return "random" if init is None else "trained on ImageNet"
    return f"those of {_name(init)}"


def _name(path: str) -> str:
    """A file or a run by its folder too, since all runs of a variant have one name."""
    return f"`{'/'.join(Path(path).parts[-2:])}`"


def _planned(record: dict[str, Any]) -> str:
    return ", then ".join(f"{epochs} at {side} x {side} pixels" for side, epochs in record["stages"])
