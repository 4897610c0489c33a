from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from agegender.inference.metadata import Variant
from agegender.inference.pipeline import Pipeline
from agegender.inference.variants import Catalogue, Model
from agegender.vision.face import Box, Face
from agegender.vision.haar import Haar
from face_images import chip_name, picture, write_chips
from helpers import ASTRONAUT
from tiny_models import metadata

from training import data
from training.errors import TrainingError


@pytest.fixture
def utkface(tmp_path: Path) -> Path:
    """Thirty chips; beside them one repaired name, two malformed ones, two that are no images, and a note."""
    folder = tmp_path / "UTKFace"
    write_chips(folder, 30)
    image = (folder / chip_name(0, 0, 0, 0)).read_bytes()
    (folder / "39_1_20170116174525125.jpg.chip.jpg").write_bytes(
        cv2.imencode(".jpg", picture(990))[1].tobytes()
    )
    (folder / "53__0_20170116184028385.jpg.chip.jpg").write_bytes(image)
    (folder / "face.jpg").write_bytes(image)
    (folder / chip_name(50, 0, 0, 900)).write_bytes(b"")
    (folder / chip_name(51, 0, 0, 901)).write_bytes(image[:100])
    (folder / "README.txt").write_text("chips")
    return folder


def test_every_file_is_used_or_listed_with_what_is_wrong(utkface: Path, tmp_path: Path) -> None:
    faces, summaries = data.prepare(tmp_path / "cache", utkface)
    summary = summaries["utkface"]
    assert summary.used == len(faces) == 31
    assert summary.repaired == ["39_1_20170116174525125.jpg.chip.jpg"]
    assert summary.malformed == ["53__0_20170116184028385.jpg.chip.jpg", "face.jpg"]
    assert summary.unreadable == [chip_name(50, 0, 0, 900), chip_name(51, 0, 0, 901)]


def test_the_cache_holds_each_crop_beside_its_own_label(utkface: Path, tmp_path: Path) -> None:
    data.prepare(tmp_path / "cache", utkface)
    faces = data.load(tmp_path / "cache")
    assert faces.crops.shape == (31, 128, 128, 3)
    row = faces.name.tolist().index(chip_name(37, 1, 0, 1))
    assert (faces.age_low[row], faces.age_high[row], faces.male[row], faces.race[row]) == (
        37,
        37,
        False,
        "White",
    )
    # As it was drawn, but for what JPEG and the change of size did.
    wanted = cv2.cvtColor(picture(137, 128), cv2.COLOR_BGR2RGB)
    assert np.abs(faces.crops[row].astype(int) - wanted).mean() < 12
    assert set(faces.split) <= {"train", "validation", "test"}


def test_a_set_that_an_archive_holds_twice_counts_once(utkface: Path, tmp_path: Path) -> None:
    shutil.copytree(utkface, tmp_path / "both/UTKFace")
    shutil.copytree(utkface, tmp_path / "both/utkface_aligned_cropped/UTKFace")
    once, _ = data.prepare(tmp_path / "once", utkface)
    both, _ = data.prepare(tmp_path / "twice", tmp_path / "both")
    assert both.digest() == once.digest()


def test_the_archive_gives_what_its_folder_gives(utkface: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "UTKFace.tar.gz", "w:gz") as archive:
        archive.add(utkface, "UTKFace")
    packed, _ = data.prepare(tmp_path / "packed", tmp_path / "UTKFace.tar.gz")
    loose, _ = data.prepare(tmp_path / "loose", utkface)
    assert np.array_equal(packed.crops, loose.crops)
    assert packed.digest() == loose.digest()


@pytest.mark.parametrize(
    ("name", "mode", "options"),
    [
        # Stored as it is, so that nothing but the checksum at the archive's end can tell.
        ("UTKFace.tar.gz", "w:gz", {"compresslevel": 0}),
        # A damaged header looks like the archive's end: the faces behind it must not be missed in silence.
        ("UTKFace.tar", "w", {"format": tarfile.GNU_FORMAT}),
    ],
    ids=["face", "header"],
)
def test_a_damaged_archive_is_said_to_be_none(
    utkface: Path, tmp_path: Path, name: str, mode: str, options: dict[str, int]
) -> None:
    with tarfile.open(tmp_path / name, mode, **options) as archive:
        archive.add(utkface, "UTKFace")
    whole = bytearray((tmp_path / name).read_bytes())
    face = (utkface / chip_name(0, 0, 0, 0)).read_bytes()[200:220]
    whole[whole.index(face if mode == "w:gz" else chip_name(37, 1, 0, 1).encode())] ^= 0xFF
    (tmp_path / name).write_bytes(whole)
    with pytest.raises(TrainingError, match="no complete archive"):
        data.prepare(tmp_path / "cache", tmp_path / name)


def test_fairface_is_cropped_and_those_without_a_face_are_counted(tmp_path: Path) -> None:
    write_chips(tmp_path / "UTKFace", 2)
    fairface = photographs(tmp_path / "fairface")
    faces, summaries = data.prepare(tmp_path / "cache", tmp_path / "UTKFace", [fairface], Haar())
    assert summaries["fairface"].used == 1
    assert summaries["fairface"].no_face == ["fairface/train/2.jpg"]
    assert summaries["fairface"].unreadable == ["fairface/train/3.jpg"]
    row = faces.indices(faces.split[2], "fairface")[0]
    assert (faces.name[row], faces.age_low[row], faces.age_high[row]) == ("fairface/train/1.jpg", 40, 49)
    assert (faces.race[row], bool(faces.male[row])) == ("White", False)


def test_parts_of_fairface_are_read_one_after_another_whatever_their_format(tmp_path: Path) -> None:
    first, second = photographs(tmp_path / "first"), photographs(tmp_path / "second")
    image = cv2.imread(str(first / "train/1.jpg"))
    (second / "train/1.jpg").unlink()
    cv2.imwrite(str(second / "train/4.webp"), image[:, ::-1])
    table = second / "fairface_label_train.csv"
    table.write_text(table.read_text().replace("train/1.jpg", "train/4.webp"))
    faces, summaries = data.prepare(tmp_path / "cache", None, [first, second], Haar())
    assert faces.name.tolist() == ["fairface/train/1.jpg", "fairface/train/4.webp"]
    assert set(faces.dataset) == {"fairface"}
    assert faces.split[0] == faces.split[1]  # they mirror each other
    assert summaries["fairface"].used == 2


def test_the_official_validation_split_is_apart(tmp_path: Path) -> None:
    folder = photographs(tmp_path / "fairface")
    (folder / "val").mkdir()
    (folder / "val/1.jpg").write_bytes(ASTRONAUT.read_bytes())
    row = "val/1.jpg,30-39,Female,White,False\n"
    (folder / "fairface_label_val.csv").write_text("file,age,gender,race,service_test\n" + row)
    prepared, _ = data.prepare(tmp_path / "cache", None, [folder], Haar())
    assert prepared.name.tolist() == ["fairface/train/1.jpg"]
    faces, summary = data.official_validation(folder, Haar())
    assert faces.name.tolist() == ["fairface/val/1.jpg"]
    assert (faces.dataset[0], faces.split[0], faces.age_low[0]) == ("fairface_val", "test", 30)
    assert summary.used == 1


def photographs(folder: Path) -> Path:
    """FairFace's layout, with a person, a landscape and a broken file."""
    (folder / "train").mkdir(parents=True)
    (folder / "train/1.jpg").write_bytes(ASTRONAUT.read_bytes())
    cv2.imwrite(str(folder / "train/2.jpg"), np.full((200, 200, 3), 90, np.uint8))
    (folder / "train/3.jpg").write_bytes(b"junk")
    rows = [f"train/{i}.jpg,40-49,Female,White,False\n" for i in (1, 2, 3)]
    (folder / "fairface_label_train.csv").write_text("file,age,gender,race,service_test\n" + "".join(rows))
    return folder


class Onlooker:
    """A session that keeps the crops it is given."""

    def __init__(self) -> None:
        self.crops: list[np.ndarray] = []

    def run(self, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.crops += list(crops)
        return np.full((len(crops), 101), 1 / 101, np.float32), np.full(len(crops), 0.5, np.float32)


def served_crop(image: bytes, detector: str) -> np.ndarray:
    """What the service puts before its model of an image with one face."""
    onlooker = Onlooker()
    variant = Variant.model_validate(metadata("tiny", b""))
    predictor = Pipeline(Catalogue([Model(variant, onlooker)]), yunet=None)
    predictor.predict(image, model="tiny", detector=detector)
    (crop,) = onlooker.crops
    return crop


def test_training_learns_from_the_very_crops_that_the_service_makes(tmp_path: Path) -> None:
    write_chips(tmp_path / "UTKFace", 5)
    fairface = photographs(tmp_path / "fairface")
    faces, _ = data.prepare(tmp_path / "cache", tmp_path / "UTKFace", [fairface], Haar())
    for row, name in enumerate(faces.name[:5]):
        chip = (tmp_path / "UTKFace" / str(name)).read_bytes()
        assert served_crop(chip, "none").tobytes() == faces.crops[row].tobytes()
    photograph = (fairface / "train/1.jpg").read_bytes()
    assert served_crop(photograph, "haar").tobytes() == faces.crops[5].tobytes()


def test_of_several_faces_the_one_in_the_middle_is_meant() -> None:
    image = np.zeros((200, 300, 3), np.uint8)
    large_aside, small_central = Face(Box(0, 0, 120, 120)), Face(Box(130, 80, 40, 40))
    assert data.most_central([large_aside, small_central], image) == small_central
    assert data.most_central([], image) is None
