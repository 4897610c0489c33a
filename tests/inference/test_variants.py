from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from agegender.inference.ages import expectation
from agegender.inference.variants import ModelsInvalid, UnknownModel, load_catalogue
from tiny_models import NORMAL_INTERVAL, metadata, put_model, tiny_onnx

MODELS = Path(__file__).parents[2] / "models"


def test_every_model_of_the_folder_is_there_by_its_id(tmp_path: Path) -> None:
    for model_id in ("zeta", "alpha"):
        put_model(tmp_path, model_id)
    (tmp_path / "alpha.md").write_text("a model card")
    catalogue = load_catalogue(tmp_path)
    assert [model.variant.id for model in catalogue] == ["alpha", "zeta"]
    assert catalogue["zeta"].variant.metrics.age_mae == 4.2
    age, _ = catalogue["zeta"].session.run(np.full((1, 128, 128, 3), 102, np.uint8))
    assert expectation(age)[0] == pytest.approx(40, abs=0.01)


def test_a_model_dropped_in_appears_when_the_folder_is_loaded_again(tmp_path: Path) -> None:
    put_model(tmp_path, "first")
    assert len(list(load_catalogue(tmp_path))) == 1
    put_model(tmp_path, "second")
    assert [model.variant.id for model in load_catalogue(tmp_path)] == ["first", "second"]


def test_further_metrics_are_kept(tmp_path: Path) -> None:
    put_model(tmp_path)
    assert load_catalogue(tmp_path)["tiny"].variant.metrics.model_dump() == {
        "age_mae": 4.2, "age_cs5": 0.7, "gender_accuracy": 0.94, "n": 2100,
    }  # fmt: skip


def test_an_unknown_id_names_those_that_there_are(tmp_path: Path) -> None:
    put_model(tmp_path, "one")
    put_model(tmp_path, "two")
    catalogue = load_catalogue(tmp_path)
    with pytest.raises(UnknownModel, match=r"^There is no such model; there are: one, two\.$"):
        catalogue["three"]


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
    assert "cannot be read (Not a directory)" in sentence(file)


def test_half_a_model_is_refused(tmp_path: Path) -> None:
    put_model(tmp_path)
    (tmp_path / "tiny.onnx").unlink()
    assert "tiny.onnx is missing, though tiny.json describes it" in sentence(tmp_path)
    put_model(tmp_path)
    (tmp_path / "tiny.json").unlink()
    assert "tiny.onnx has no tiny.json beside it" in sentence(tmp_path)


def test_a_file_that_is_not_the_one_described_is_refused(tmp_path: Path) -> None:
    put_model(tmp_path)
    (tmp_path / "tiny.onnx").write_bytes(tiny_onnx()[:-1])
    assert "tiny.onnx is not the file that tiny.json describes" in sentence(tmp_path)


def test_a_model_that_breaks_the_contract_is_refused_by_name(tmp_path: Path) -> None:
    put_model(tmp_path, model=tiny_onnx(side=96))
    assert "tiny.onnx takes " in sentence(tmp_path)
    put_model(tmp_path, model=b"junk")
    assert "tiny.onnx is not a model that ONNX Runtime can run" in sentence(tmp_path)


def interval(**changes: object) -> dict[str, object]:
    return {"age_interval": {**NORMAL_INTERVAL, **changes}}


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"id": "other"}, "says that its id is other"),
        ({"id": "../etc"}, "(id: "),
        ({"input_size": 224}, "asks for crops of 224 pixels"),
        ({"parameters": "many"}, "(parameters: "),
        ({"sha256": "0123"}, "(sha256: "),
        ({"created": "yesterday"}, "(created: "),
        ({"metrics": {"gender_accuracy": 0.9, "n": 1}}, "(metrics.age_mae: Field required)"),
        ({"metrics": {"age_mae": 4, "gender_accuracy": 94, "n": 1}}, "(metrics.gender_accuracy: "),
        ({"metrics": {"age_mae": float("nan"), "gender_accuracy": 0.9, "n": 1}}, "(metrics.age_mae: "),
        ({"metrics": {"age_mae": 4, "gender_accuracy": 0.9, "n": 1, "by": "me"}}, "(metrics.by: "),
        ({"age_estimate": "mode"}, "(age_estimate: "),
        ({"gender_temperature": 0}, "(gender_temperature: "),
        (interval(age=[]), "(age_interval.age: "),
        (interval(age=[50, 40]), "coverage and age must rise"),
        (interval(age=[0, 50]), "a column for each age"),
        (interval(low=[[1.0]] * 4), "a row for each coverage"),
        (interval(low=[[2.0], [1.0], [1.0], [1.0], [1.0]]), "nor fall with the coverage"),
        (interval(coverage=[0.6, 0.8, 0.9, 0.95, 0.99]), "must reach from 0.5 to 0.99"),
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


def test_the_file_for_training_may_lie_beside_the_export(tmp_path: Path) -> None:
    put_model(tmp_path)
    (tmp_path / "tiny.keras").write_bytes(b"not looked at")
    model = load_catalogue(tmp_path)["tiny"]
    assert model.variant.sha256 == hashlib.sha256((tmp_path / "tiny.onnx").read_bytes()).hexdigest()


@pytest.mark.skipif(not list(MODELS.glob("*.json")), reason="models/ holds no model yet")
def test_the_models_that_are_shipped_load() -> None:
    for model in load_catalogue(MODELS):
        age, male = model.session.run(np.zeros((21, 128, 128, 3), np.uint8))
        assert age.shape == (21, 101)
        assert male.shape == (21,)
