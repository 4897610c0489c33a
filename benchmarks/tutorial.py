"""The usual way, as most tutorials put a model behind FastAPI: a stranger to the service, to be compared with it."""

from __future__ import annotations

from typing import Annotated, Any

import cv2
import cv2.data
import keras
import numpy as np
from fastapi import FastAPI, File, HTTPException, UploadFile

model = keras.models.load_model("models/age_gender_B.keras", compile=False)
cascade = cv2.CascadeClassifier(cv2.data.haarcascades + "haarcascade_frontalface_default.xml")
app = FastAPI()


@app.post("/predict")
async def predict(image: Annotated[UploadFile, File()]) -> dict[str, Any]:
    """Age and probability of male for each face."""
    pixels = cv2.imdecode(np.frombuffer(await image.read(), np.uint8), cv2.IMREAD_COLOR)
    if pixels is None:
        raise HTTPException(400, "no image")
    faces = []
    for x, y, width, height in cascade.detectMultiScale(cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY), 1.3, 5):
        face = cv2.cvtColor(pixels[y : y + height, x : x + width], cv2.COLOR_BGR2RGB)
        outputs = model.predict(cv2.resize(face, (128, 128))[np.newaxis], verbose=0)
        age, male = outputs["age"][0], np.ravel(outputs["gender"])[0]
        box = {"x": int(x), "y": int(y), "width": int(width), "height": int(height)}
        faces.append({"box": box, "age": float(age @ np.arange(len(age))), "male": float(male)})
    return {"faces": faces}
