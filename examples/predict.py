"""python predict.py PHOTOGRAPH [URL]: print the age and gender of each face."""

import sys
from pathlib import Path

import httpx

photograph, *others = sys.argv[1:]
url = others[0] if others else "http://localhost:8000"
answer = httpx.post(f"{url}/predict", files={"image": Path(photograph).read_bytes()}, timeout=30)
prediction = answer.json()
if answer.is_error:
    sys.exit(prediction["detail"])
for face in prediction["faces"]:
    age, gender = face["age"], face["gender"]
    print(
        f"{age['years']} years ({age['low']}-{age['high']}),",
        f"{gender['label']} {gender['probability']:.0%}",
    )
