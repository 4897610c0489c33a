from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from agegender.inference.ages import expectation
from agegender.inference.variants import ModelsInvalid, UnknownModel, load_catalogue
from tiny_models import NORMAL_INTERVAL, metadata, put_model, tiny_onnx


def test_every_model_of_the_folder_is_there_by_its_id(tmp_path: Path) -> None:
    for model_id in ("zeta", "alpha"):
        put_model(tmp_path, model_id)
    (tmp_path / "alpha.md").write_text("a model card")
    (tmp_path / "alpha.keras").write_bytes(b"what training keeps")
    catalogue = load_catalogue(tmp_path)
    assert [model.variant.id for model in catalogue] == ["alpha", "zeta"]
    assert catalogue["zeta"].variant.metrics.age_mae == 4.2
    levels = np.arange(26, 231, 20)
    age, male = catalogue["zeta"].session.run(
        np.tile(np.uint8(levels)[:, None, None, None], (1, 128, 128, 3))
    )
    assert expectation(age) == pytest.approx(levels * 100 / 255, abs=0.01)
    assert (male > 0.5).tolist() == (levels > 127).tolist()


def sentence(folder: Path) -> str:
    with pytest.raises(ModelsInvalid) as raised:
        load_catalogue(folder)
    text = str(raised.value)
    assert text.endswith(".")
    assert "\n" not in text
    return text


def test_a_folder_that_is_missing_empty_or_a_file_is_said_so(tmp_path: Path) -> None:
    assert "There is no models folder" in sentence(tmp_path / "nowhere")
    assert "is empty" in sentence(tmp_path)
    file = tmp_path / "file"
    file.touch()
    assert "There is no models folder" in sentence(file)


@pytest.mark.parametrize(
    ("model", "complaint"),
    [
        (b"", "is not a model that ONNX Runtime can run"),
        (b"not an onnx file", "is not a model that ONNX Runtime can run"),
        (tiny_onnx()[:-200], "is not a model that ONNX Runtime can run"),
        (tiny_onnx(side=96), "does not turn two crops"),
        (tiny_onnx(age="years"), "does not turn two crops"),
        (tiny_onnx(batch=1), "does not turn two crops"),
        (tiny_onnx(ages=100), r"gives shapes \(2, 100\)"),
        (tiny_onnx(flat_gender=False), r"gives shapes \(2, 101\) and \(2, 1\)"),
        (tiny_onnx(probabilities=False), "gives ages or genders that are not probabilities"),
    ],
    ids=[
        "empty", "junk", "cut short", "crop size", "output name", "batch of one",
        "100 ages", "gender column", "logits",
    ],
)  # fmt: skip
def test_a_model_that_breaks_the_contract_is_refused(tmp_path: Path, model: bytes, complaint: str) -> None:
    put_model(tmp_path, model=model)
    assert re.search(rf"tiny\.onnx {complaint}", sentence(tmp_path))


def interval(**changes: object) -> dict[str, object]:
    return {"age_interval": {**NORMAL_INTERVAL, **changes}}


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"id": "other"}, "says that its id is other"),
        ({"id": "../etc"}, "(id: "),
        ({"input_size": 224}, "(input_size: "),
        ({"sha256": "0123"}, "(sha256: "),
        ({"metrics": {"age_mae": 4, "gender_accuracy": 94, "n": 1}}, "(metrics.gender_accuracy: "),
        ({"metrics": {"age_mae": float("nan"), "gender_accuracy": 0.9, "n": 1}}, "(metrics.age_mae: "),
        ({"gender_temperature": 0}, "(gender_temperature: "),
        (interval(coverage=[0.5]), "(age_interval.coverage: "),
        ({"surprise": 1}, "(surprise: "),
    ],
)
def test_metadata_that_is_wrong_is_said_so(
    tmp_path: Path, changes: dict[str, object], complaint: str
) -> None:
    put_model(tmp_path, **changes)
    text = sentence(tmp_path)
    assert text.startswith(f"{tmp_path / 'tiny.json'} ")
    assert complaint in text


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"\xff\xfe", json.dumps(metadata("tiny", b""))[:50].encode()]
)
def test_metadata_that_is_no_json_object_is_said_so(tmp_path: Path, text: bytes) -> None:
    put_model(tmp_path)
    (tmp_path / "tiny.json").write_bytes(text)
    assert "tiny.json is not valid metadata" in sentence(tmp_path)


def test_the_default_is_b_or_the_first_that_is_there(tmp_path: Path) -> None:
    put_model(tmp_path, "age_gender_C")
    put_model(tmp_path, "age_gender_A")
    assert load_catalogue(tmp_path).default(None) == "age_gender_A"
    put_model(tmp_path, "age_gender_B")
    catalogue = load_catalogue(tmp_path)
    assert (catalogue.default(None), catalogue.default("age_gender_C")) == ("age_gender_B", "age_gender_C")
    with pytest.raises(
        UnknownModel, match=r"age_gender_Z.* age_gender_A, age_gender_B, age_gender_C.*--default-model"
    ):
        catalogue.default("age_gender_Z")
