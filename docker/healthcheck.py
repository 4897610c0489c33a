"""Exits with 0 if the service in this container is ready; slim images have no curl."""

import http.client
import os
import sys

connection = http.client.HTTPConnection(
    "127.0.0.1", int(os.environ.get("AGEGENDER_PORT") or "8000"), timeout=2
)
try:
    connection.request("GET", "/health/ready")
    status = connection.getresponse().status
except (OSError, http.client.HTTPException) as error:
    sys.exit(f"not ready: {error}")
sys.exit(0 if status == 200 else f"not ready: {status}")
