from __future__ import annotations

import re
from pathlib import Path

import pytest

from training.errors import TrainingError
from training.labels import Label, parse_age_bin, parse_utkface_name, read_fairface_labels


def test_a_name_says_age_gender_and_race() -> None:
    label = parse_utkface_name("26_1_3_20170116171048641.jpg.chip.jpg")
    assert label == Label(26, 26, male=False, race="Indian")
    assert parse_utkface_name("116_0_0_20170120134921760.jpg.chip.jpg") == Label(116, 116, True, "White")


@pytest.mark.parametrize(
    ("name", "age", "male", "race"),
    [
        ("39_1_20170116174525125.jpg.chip.jpg", 39, False, "unknown"),  # no race
        ("24_0_1_20170116220224657 .jpg.chip.jpg", 24, True, "Black"),  # a space
        ("55_0_0_20170116232725357jpg.chip.jpg", 55, True, "White"),  # no dot
        ("28_1_2_201701161846515488.jpg.chip.jpg", 28, False, "Asian"),  # a date of 18 digits
        ("14_0_0_2017011022340900.jpg.chip.jpg", 14, True, "White"),  # a date of 16 digits
    ],
)
def test_a_malformed_name_whose_age_and_gender_are_plain_is_repaired(
    name: str, age: int, male: bool, race: str
) -> None:
    assert parse_utkface_name(name) == Label(age, age, male, race, repaired=True)


@pytest.mark.parametrize(
    "name",
    [
        "53__0_20170116184028385.jpg.chip.jpg",  # no gender
        "61_3_20170109150557335.jpg.chip.jpg",  # a gender that there is not
        "26_1_7_20170116171048641.jpg.chip.jpg",  # a race that there is not
        "117_1_0_20170116171048641.jpg.chip.jpg",  # older than anybody in the set
        "-3_1_0_20170116171048641.jpg.chip.jpg",
        "26_1_0_20170116171048641.jpg",
        "._26_1_0_20170116171048641.jpg.chip.jpg",
        "face.jpg",
    ],
)
def test_a_name_that_says_neither_is_refused(name: str) -> None:
    assert parse_utkface_name(name) is None


def test_age_bins_are_first_and_last_year() -> None:
    assert parse_age_bin("0-2") == (0, 2)
    assert parse_age_bin("60-69") == (60, 69)
    assert parse_age_bin("more than 70") == (70, 116)
    for text, said in (
        ("about 40", "about"),
        ("29-20", "ends before it begins"),
        ("20", "not enough values"),
    ):
        with pytest.raises(ValueError, match=said):
            parse_age_bin(text)


def test_a_table_is_read_whether_a_spreadsheet_wrote_it_or_not(tmp_path: Path) -> None:
    rows = "train/1.jpg,20-29,male,Black\ntrain/2.jpg,more than 70,Female,East Asian\n"
    wanted = {
        "train/1.jpg": Label(20, 29, True, "Black"),
        "train/2.jpg": Label(70, 116, False, "East Asian"),
    }
    table = tmp_path / "fairface_label_train.csv"
    table.write_text(f"file,age,gender,race\n{rows}")
    assert read_fairface_labels(table) == wanted
    table.write_bytes(b"\xef\xbb\xbf" + f"file,age,gender,race\n{rows}".replace("\n", "\r\n").encode())
    assert read_fairface_labels(table) == wanted


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (
            "file,age,gender,race\ntrain/1.jpg,unknown,Male,Black\n",
            "fairface_label_train.csv gives train/1.jpg the age 'unknown', the gender 'Male' and the race 'Black': ",
        ),
        ("file,age,gender,race\ntrain/1.jpg,20-29,Male,East Asi", "the race 'East Asi'"),
        ("file,age\ntrain/1.jpg,20-29\n", "fairface_label_train.csv has no column gender, race"),
        ("file,age,gender,race\n", "fairface_label_train.csv has no row"),
    ],
    ids=["no bin", "cut short", "missing columns", "no rows"],
)
def test_a_table_that_says_something_else_is_named(tmp_path: Path, table: str, said: str) -> None:
    (tmp_path / "fairface_label_train.csv").write_text(table)
    with pytest.raises(TrainingError, match=re.escape(said)):
        read_fairface_labels(tmp_path / "fairface_label_train.csv")
