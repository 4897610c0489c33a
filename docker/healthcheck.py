"""Exit with 0 if the service in this container is ready; slim images have no curl."""

import http.client
import os
import sys

# Those of the service: `any address` is asked at this machine's own, and where Kubernetes has put a service link such
# as tcp://10.0.0.1:80 in the variable, the default port is in use.
host = os.environ.get("AGEGENDER_HOST", "").strip("[]") or "127.0.0.1"
host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
port = os.environ.get("AGEGENDER_PORT", "")
connection = http.client.HTTPConnection(host, int(port) if port.isdecimal() else 8000, timeout=2)
try:
    connection.request("GET", "/health/ready")
    status = connection.getresponse().status
except (OSError, http.client.HTTPException) as error:
    sys.exit(f"not ready: {error}")
sys.exit(0 if status == 200 else f"not ready: {status}")
