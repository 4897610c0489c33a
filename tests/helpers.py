"""What tests of the running service share: photographs, a server process, and requests sent by hand."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import http.server
import json
import os
import re
import resource
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import cv2
import httpx
import numpy as np
import pytest
from agegender.inference.detector_file import cached_path
from agegender.main import create_app
from agegender.settings import Settings
from fastapi import FastAPI

ROOT = Path(__file__).parents[1]
AGEGENDER = Path(sys.executable).with_name("agegender")
PATIENCE = 60
"""Seconds until a test that hangs fails."""

YUNET = next(
    filter(Path.exists, [cached_path(), ROOT.parent / "shared/weights/face_detection_yunet_2023mar.onnx"]),
    cached_path(),
)
"""YuNet's file: where `agegender fetch-detector` puts it, or in ../shared; missing where neither has it."""
YUNET_OPTIONS = [f"--yunet-path={YUNET}"] if YUNET.exists() else []
needs_yunet = pytest.mark.skipif(not YUNET.exists(), reason="needs YuNet: run `agegender fetch-detector`")
DETECTORS = ["haar", pytest.param("yunet", marks=needs_yunet)]

ASTRONAUT = ROOT / "examples/astronaut.jpg"
GRACE_HOPPER = ROOT / "tests/photographs/grace_hopper.jpg"
# Box of the face in each, a little wider than detectors draw it: left, top, right, bottom.
ASTRONAUT_FACE = (150, 40, 300, 200)
GRACE_HOPPER_FACE = (120, 80, 400, 360)


def pixels(path: Path) -> np.ndarray:
    return decoded(path.read_bytes())


def decoded(file: bytes) -> np.ndarray:
    """Its pixels as OpenCV reads them, (height, width, 3) BGR."""
    image = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image


def jpeg(image: np.ndarray, quality: int = 95) -> bytes:
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image)[1].tobytes()


def grey(level: int = 100, width: int = 90, height: int = 60) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


IMAGE = png(grey(51))
"""A small picture that the tiny models take for a face of 20 years where there is no detector."""

FORM = "multipart/form-data; boundary=b"
FORM_END = b"--b--\r\n"


def part(name: str, content: bytes = IMAGE, filename: str | None = "photo.png") -> bytes:
    """One part of a body of the content type `FORM`."""
    file = "" if filename is None else f'; filename="{filename}"'
    return f'--b\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode() + content + b"\r\n"


def side_by_side() -> np.ndarray:
    """The astronaut, from x = 0, and Grace Hopper, from x = 512, whose face is the larger."""
    left, right = pixels(ASTRONAUT), pixels(GRACE_HOPPER)
    both = grey(128, left.shape[1] + right.shape[1], max(left.shape[0], right.shape[0]))
    both[: left.shape[0], : left.shape[1]] = left
    both[: right.shape[0], left.shape[1] :] = right
    return both


def turned(image: np.ndarray, orientation: int) -> bytes:
    """A JPEG whose pixels are stored so that a viewer that heeds its EXIF `orientation` shows `image`."""
    stored = {3: image[::-1, ::-1], 6: np.rot90(image), 7: image[::-1, ::-1].transpose(1, 0, 2)}[orientation]
    encoded = jpeg(np.ascontiguousarray(stored))
    # A TIFF directory with one entry: tag 0x112, one 16-bit number.
    exif = b"Exif\0\0MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x112, 3, 1, orientation, 0, 0)
    return encoded[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + encoded[2:]


def inside(box: dict[str, int], area: tuple[int, int, int, int]) -> bool:
    """Whether a box of an answer lies in `area` (left, top, right, bottom)."""
    left, top, right, bottom = area
    return (
        left <= box["x"] <= box["x"] + box["width"] <= right
        and top <= box["y"] <= box["y"] + box["height"] <= bottom
    )


def check_problem(answer: httpx.Response, status: int, name: str, instance: str = "/predict") -> str:
    """Assert that `answer` is that problem document and complete; returns its detail."""
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    problem = answer.json()
    assert set(problem) == {"type", "title", "status", "detail", "instance", "request_id"}
    assert (problem["type"], problem["status"]) == (f"/problems/{name}", status)
    assert problem["instance"] == instance
    assert problem["request_id"] == answer.headers["x-request-id"] != ""
    assert problem["title"]
    detail: str = problem["detail"]
    assert detail.endswith((".", "`."))
    for inner in ("Traceback", "Error", "Exception", "cv2", "onnx", "starlette", str(ROOT), "/tmp"):  # noqa: S108
        assert inner not in detail
    assert ("retry-after" in answer.headers) == (status in (429, 503))
    return detail


def without_timings(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name != "timings_ms"}


@contextlib.contextmanager
def full_disk(size: int) -> Iterator[None]:
    """Of files that are written meanwhile, by processes begun too, the system refuses more than `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)  # coverage could not write its data either
        patch.setenv("PYTHONDONTWRITEBYTECODE", "1")  # which Python 3.11 would write by half, and believe
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)


def environment(cache: Path, **extra: str) -> dict[str, str]:
    """This process's environment, without the service's settings; `cache` is the user's cache."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("AGEGENDER_")}
    return {**inherited, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(cache), **extra}


@contextlib.contextmanager
def web_server(answer: Callable[[http.server.SimpleHTTPRequestHandler], None]) -> Iterator[str]:
    """The address of a web server on this machine that lets `answer` handle each GET and POST."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            with contextlib.suppress(ConnectionError):
                answer(self)

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


def run_program(*command: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run it to its end, whatever that is."""
    options = {"timeout": PATIENCE, **options}
    ended: subprocess.CompletedProcess[str] = subprocess.run(
        command, capture_output=True, text=True, check=False, **options
    )
    return ended


def agegender(cache: Path, *arguments: object, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own, which must not end with a traceback."""
    ended = run_program(AGEGENDER, *map(str, arguments), env=environment(cache, **extra))
    assert "Traceback" not in ended.stderr
    return ended


class Service:
    """A running service, and a client of it."""

    url: str
    client: httpx.Client

    def predict(self, image: bytes, **query: Any) -> httpx.Response:
        """Send the bare bytes."""
        return self.client.post(
            "/predict", content=image, params=query, headers={"Content-Type": "application/octet-stream"}
        )

    def faces(self, image: bytes, **query: Any) -> list[dict[str, Any]]:
        """The faces of an answer that must be a 200."""
        answer = self.predict(image, **query)
        assert answer.status_code == 200, answer.text
        faces: list[dict[str, Any]] = answer.json()["faces"]
        return faces


class Server(Service):
    """`agegender serve` as a process of its own, on a free port."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self._lines: list[str] = []
        self._ended = False
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.url = re.findall(r"http://[\w.:]+", self.wait_for_line("listening on")["message"])[0]
        self.client = httpx.Client(base_url=self.url, timeout=PATIENCE, trust_env=False)

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as lines:
            for line in lines:
                with self._changed:
                    self._lines.append(line)
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def log(self) -> str:
        """All that the server has written so far."""
        with self._changed:
            return "".join(self._lines)

    def wait_for_line(self, text: str, matches: Callable[[dict[str, Any]], bool] = lambda _: True) -> Any:
        """The first line of the log, which is JSON, that holds `text` and `matches`."""

        def found() -> Iterator[dict[str, Any]]:
            return filter(matches, (json.loads(line) for line in self._lines if text in line))

        with self._changed:
            self._changed.wait_for(lambda: self._ended or next(found(), None), PATIENCE)
            line = next(found(), None)
        assert line is not None, f"no line with {text!r} in:\n{self.log()}"
        return line

    def request_line(self, request_id: str) -> dict[str, Any]:
        """What the log says of a request, once it is over."""
        line: dict[str, Any] = self.wait_for_line(request_id, lambda line: line["message"] == "request")
        return line

    def end(self) -> int:
        """Wait until the process has ended and all of its log is there; its exit code."""
        code = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return code

    def stop(self) -> int:
        """Send SIGTERM, and `end`."""
        self.process.terminate()
        try:
            return self.end()
        finally:
            self.process.kill()
            self.client.close()


@contextlib.contextmanager
def serving(
    models: Path | None,
    cache: Path,
    *options: str,
    program: Path = AGEGENDER,
    cwd: Path | None = None,
    **extra: str,
) -> Iterator[Server]:
    """A `Server` for the length of a `with` block."""
    chosen = [f"--models={models}"] if models else []
    process = subprocess.Popen(
        [program, "serve", "--port=0", *chosen, *options],
        cwd=cwd,
        env=environment(cache, **extra),
        stderr=subprocess.PIPE,
        text=True,
    )
    server = Server(process)
    try:
        yield server
    finally:
        server.stop()


@contextlib.contextmanager
def connected(server: Server, count: int = 1) -> Iterator[list[socket.socket]]:
    """So many connections to `server`, for what no client sends."""
    address = (server.client.base_url.host, server.client.base_url.port)
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(socket.create_connection(address, PATIENCE)) for _ in range(count)]


def read_to_the_end(connection: socket.socket) -> bytes:
    """All that the server sends until it closes the connection."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while data := connection.recv(4096):
            received += data
    return received


class Upload:
    """A POST whose body is sent by hand; made once the server has asked for that body.

    The server admits a request, or refuses it, before it reads the body: with `Expect: 100-continue` it says
    which. Without `length` the body is chunked.
    """

    def __init__(
        self,
        server: Service,
        *,
        length: int | None,
        path: str = "/predict",
        content_type: str = "image/png",
        wait: bool = True,
        **headers: str,
    ) -> None:
        address = urlsplit(server.url)
        self._connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=PATIENCE)
        self._connection.putrequest("POST", path)
        chosen = {"Content-Length": str(length)} if length is not None else {"Transfer-Encoding": "chunked"}
        sent = {"Content-Type": content_type, "Expect": "100-continue", **chosen, **headers}
        for name, value in sent.items():
            self._connection.putheader(name, value)
        self._connection.endheaders()
        if wait:
            received = b""
            while not received.endswith(b"\r\n\r\n"):
                byte = self._connection.sock.recv(1)
                assert byte, received
                received += byte
            assert received == b"HTTP/1.1 100 Continue\r\n\r\n"

    def send(self, data: bytes) -> None:
        self._connection.send(data)

    def send_chunk(self, data: bytes) -> None:
        self.send(b"%x\r\n%s\r\n" % (len(data), data))

    def answer(self) -> httpx.Response:
        """The server's answer, whether or not all was sent."""
        response = self._connection.getresponse()
        body = response.read()
        self.leave()
        return httpx.Response(response.status, headers=response.getheaders(), content=body)

    def leave(self) -> None:
        self._connection.close()


def wait_until(true: Callable[[], Any], what: str, seconds: float = PATIENCE) -> None:
    """Ask again and again, until the answer is something that is true."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"in {seconds} s, {what} did not come true"
        time.sleep(0.05)


async def until(condition: Callable[[], bool]) -> None:
    """Let the event loop turn until `condition`; the test's own limit is its only deadline."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0)


def in_process(settings: Settings, ask: Callable[[FastAPI, httpx.AsyncClient], Awaitable[None]]) -> None:
    """Run the app here, without a server, and `ask` it: for what a server's process hides or cuts short."""

    async def run() -> None:
        app = create_app(settings)
        transport = httpx.ASGITransport(app=app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://service") as client,
        ):
            await ask(app, client)

    asyncio.run(asyncio.wait_for(run(), PATIENCE))
