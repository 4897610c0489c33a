"""python as_library.py PHOTOGRAPH...: estimate ages and genders in this process, without a service."""

import sys

from agegender import Predictor

predictor = Predictor()
for photograph in sys.argv[1:]:
    for face in predictor.predict(photograph).faces:
        age, gender = face.age, face.gender
        print(
            f"{photograph}: {age.years} years ({age.low}-{age.high}),",
            f"{gender.label} {gender.probability:.0%}",
        )
