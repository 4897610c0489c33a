"""python with_client.py URL PHOTOGRAPH...: ask a service, such as http://localhost:8000, with the Python client."""

import sys

from agegender import Client
from agegender.client import AgeGenderError, BadRequest

url, *photographs = sys.argv[1:]
try:
    with Client(url) as client:
        for photograph in photographs:
            try:
                answer = client.predict(photograph, max_faces=5)
            except BadRequest as error:
                print(f"{photograph}: {error}")
                continue
            for face in answer.faces:
                age, gender = face.age, face.gender
                print(
                    f"{photograph}: {age.years} years ({age.low}-{age.high}),",
                    f"{gender.label} {gender.probability:.0%}",
                )
except AgeGenderError as error:
    sys.exit(str(error))
