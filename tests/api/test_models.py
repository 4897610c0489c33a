from __future__ import annotations

from pathlib import Path

from helpers import YUNET, Server
from tiny_models import metadata


def test_models_are_listed_with_all_that_is_known_of_them(server: Server, models_folder: Path) -> None:
    answer = server.client.get("/models")
    assert answer.status_code == 200
    listing = answer.json()
    assert listing["default"] == "age_gender_B"
    assert listing["detector"] == ("yunet" if YUNET.exists() else "haar")
    assert [model["id"] for model in listing["models"]] == ["age_gender_A", "age_gender_B"]
    for model in listing["models"]:
        known = metadata(model["id"], (models_folder / f"{model['id']}.onnx").read_bytes())
        del known["age_interval"]
        assert model == {**known, "loaded": True}
        assert server.client.get(f"/models/{model['id']}").json() == model
