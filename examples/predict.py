"""python predict.py PHOTOGRAPH [URL]: say how old each face looks, and which gender."""

import sys
from pathlib import Path

import httpx

photograph, url = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "http://localhost:8000"
# A service that is busy answers 503 at once and says when to ask again; one that works takes far less than this.
answer = httpx.post(f"{url}/predict", files={"image": Path(photograph).read_bytes()}, timeout=30)
said = answer.json()
if answer.is_error:
    sys.exit(said["detail"])
for face in said["faces"]:
    age, gender = face["age"], face["gender"]
    print(f"{age['years']} years ({age['low']}-{age['high']}), {gender['label']} {gender['probability']:.0%}")
