"""Posts a photograph over and over from several threads until the service is gone; prints what became of it.

Runs beside the service, in its network. First line: "loaded", once some answers have come. Second: a JSON object with
the number of requests that were answered, by status, and of those that the service took up and then `lost`.
Usage: load.py PHOTOGRAPH
"""

from __future__ import annotations

import collections
import http.client
import json
import sys
import threading
from pathlib import Path

THREADS = 8
LOADED = 20

photograph = Path(sys.argv[1]).read_bytes()
outcomes: collections.Counter[str] = collections.Counter()
changed = threading.Condition()


def ask() -> str | None:
    """What became of one request; None where it was not taken up.

    The service says by `100 Continue` that it takes a request up: what had only reached the operating system when the
    service stopped listening was never accepted.
    """
    connection = http.client.HTTPConnection("127.0.0.1", 8000, timeout=60)
    try:
        connection.putrequest("POST", "/predict")
        for name, value in {
            "Content-Type": "image/jpeg",
            "Content-Length": str(len(photograph)),
            "Expect": "100-continue",
        }.items():
            connection.putheader(name, value)
        connection.endheaders()
        received = b""
        while not received.endswith(b"\r\n\r\n"):
            byte = connection.sock.recv(1)
            if not byte:
                return None
            received += byte
    except OSError:
        return None
    if not received.startswith(b"HTTP/1.1 100 "):
        return received.split()[1].decode()
    try:
        connection.send(photograph)
        response = connection.getresponse()
        response.read()
    except (OSError, http.client.HTTPException):
        return "lost"
    finally:
        connection.close()
    return str(response.status)


def keep_asking() -> None:
    while (outcome := ask()) is not None:
        with changed:
            outcomes[outcome] += 1
            changed.notify_all()


threads = [threading.Thread(target=keep_asking) for _ in range(THREADS)]
for thread in threads:
    thread.start()
with changed:
    changed.wait_for(lambda: outcomes.total() >= LOADED)
print("loaded", flush=True)
for thread in threads:
    thread.join()
print(json.dumps(outcomes))
