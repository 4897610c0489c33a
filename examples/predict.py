"""python predict.py PHOTOGRAPH [URL]: say how old each face looks, and which gender."""

import sys
from pathlib import Path

import httpx

photograph, *others = sys.argv[1:]
url = others[0] if others else "http://localhost:8000"
# A busy service answers 503 at once; one that works takes far less than this.
answer = httpx.post(f"{url}/predict", files={"image": Path(photograph).read_bytes()}, timeout=30)
said = answer.json()
if answer.is_error:
    sys.exit(said["detail"])
for face in said["faces"]:
    age, gender = face["age"], face["gender"]
    print(
        f"{age['years']} years ({age['low']}-{age['high']}),",
        f"{gender['label']} {gender['probability']:.0%}",
    )
