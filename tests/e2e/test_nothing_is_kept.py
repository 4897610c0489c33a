"""Of what callers send, nothing stays: not on a disk, not in the log, not in the metrics."""

from __future__ import annotations

import os
import re
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from agegender.settings import Settings
from helpers import ASTRONAUT, Server, Upload, serving

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="looks into a process, which only Linux allows"
)

PHOTOGRAPH = ASTRONAUT.read_bytes() + bytes(5 * 2**20)  # more than parsers keep in memory by themselves
NAME = "marked-name-of-a-patient.jpg"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every folder that a process writes to without being told where."""
    return {name: tmp_path_factory.mktemp(name) for name in ("home", "cache", "tmp", "cwd")}


@pytest.fixture(scope="module")
def watched_server(models_folder: Path, folders: dict[str, Path]) -> Iterator[Server]:
    with serving(
        models_folder,
        folders["cache"],
        "--workers=1",
        cwd=folders["cwd"],
        HOME=str(folders["home"]),
        TMPDIR=str(folders["tmp"]),
    ) as running:
        yield running


def files_open_for_writing(server: Server) -> list[str]:
    """Paths of files, and of those that have no path any more, that the process could write to."""
    process = Path(f"/proc/{server.process.pid}")
    found = []
    for descriptor in os.listdir(process / "fd"):
        target = os.readlink(process / "fd" / descriptor)
        (flags,) = re.findall(r"^flags:\s*(\d+)$", (process / "fdinfo" / descriptor).read_text(), re.M)
        if target.startswith("/") and target != "/dev/null" and int(flags, 8) & os.O_ACCMODE != os.O_RDONLY:
            found.append(target)
    return found


def send_everything(server: Server) -> list[tuple[int, str]]:
    """Requests of every kind of outcome, each with a file's name where one can be; statuses and answers."""
    client = server.client
    in_a_form = [
        client.post("/predict?detector=haar", files={"image": (NAME, content, "image/jpeg")})
        for content in (
            PHOTOGRAPH,
            PHOTOGRAPH[:20_000],
            b"this is no image",
            bytes(Settings().max_bytes + 2**20),
        )
    ]
    in_a_batch = [
        client.post(
            "/predict/batch?detector=haar",
            files=[
                (part, (NAME, content, "image/jpeg")) for content in (PHOTOGRAPH, b"no image", PHOTOGRAPH)
            ],
        )
        for part in ("images", NAME)
    ]
    others = [
        client.post("/predict?detector=haar", content=PHOTOGRAPH, headers={"Content-Type": "image/jpeg"}),
        client.post("/predict", files={NAME: (NAME, b"", "image/jpeg")}),
        client.post(f"/predict?{NAME}=1", content=PHOTOGRAPH),
        client.post(f"/predict?model={NAME}", content=PHOTOGRAPH),
        client.put(f"/predict/{NAME}", content=PHOTOGRAPH),  # as `curl -T` sends it
        client.post("/predict", content=PHOTOGRAPH, headers={"Content-Type": f"text/{NAME}"}),
    ]
    return [(answer.status_code, answer.text) for answer in in_a_form + in_a_batch + others]


def test_no_file_is_made_or_written_to(watched_server: Server, folders: dict[str, Path]) -> None:
    def files() -> list[Path]:
        return sorted(path for folder in folders.values() for path in folder.rglob("*"))

    before = files()
    inherited = files_open_for_writing(watched_server)  # standard output, where this test's goes to a file
    _, most = resource.prlimit(watched_server.process.pid, resource.RLIMIT_FSIZE)
    # Bytes that it may write to files.
    resource.prlimit(watched_server.process.pid, resource.RLIMIT_FSIZE, (0, most))
    try:
        uploads = [
            Upload(watched_server, path=path, length=len(PHOTOGRAPH), content_type=content_type)
            for path, content_type in (
                ("/predict", "image/jpeg"),
                ("/predict", "multipart/form-data; boundary=b"),
                ("/predict/batch", "multipart/form-data; boundary=b"),
            )
        ]
        for upload in uploads:
            upload.send(PHOTOGRAPH[:-1])
        assert [status for status, _ in send_everything(watched_server)] == [
            200, 400, 400, 413, 200, 400, 200, 400, 422, 404, 404, 415,
        ]  # fmt: skip
        assert files_open_for_writing(watched_server) == inherited
        assert files() == before
        for upload in uploads:
            upload.leave()
    finally:
        resource.prlimit(watched_server.process.pid, resource.RLIMIT_FSIZE, (most, most))
    assert files() == before


def test_file_names_and_queries_reach_neither_log_nor_metrics(
    watched_server: Server,
) -> None:
    answers = send_everything(watched_server)
    last = watched_server.client.get("/health/live").headers["x-request-id"]
    watched_server.request_line(last)
    logged = watched_server.log()
    assert "marked-name" not in logged
    assert "marked-name" not in watched_server.client.get("/metrics").text
    # An answer names its path, the files of a batch and parts of a form that are not expected, and nothing else.
    assert [status for status, text in answers if "marked-name" in text] == [200, 400, 400, 404]
    # Nor anything else of an image: a line is too short for that.
    assert max(len(line) for line in logged.splitlines()) < 400


def test_a_crash_leaves_no_memory_behind(watched_server: Server) -> None:
    limits = Path(f"/proc/{watched_server.process.pid}/limits").read_text()
    assert re.search(r"^Max core file size +0 +0 ", limits, re.M)
