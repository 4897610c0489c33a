from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from agegender.inference import detector_file
from agegender.inference.detector_file import DetectorFileError, cached_path, fetch, find
from helpers import web_server

PUBLISHED = bytes(range(256)) * 400


@dataclass
class Site:
    """What a web server on this machine answers."""

    status: int = 200
    body: bytes = PUBLISHED
    claimed_length: int | None = None
    requests: list[str] = field(default_factory=list)

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Send the file, which has moved."""
        self.requests.append(request.path)
        if request.path == "/yunet.onnx":
            request.send_response(302)
            request.send_header("Location", "/elsewhere")
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        request.send_response(self.status)
        length = len(self.body) if self.claimed_length is None else self.claimed_length
        request.send_header("Content-Length", str(length))
        request.end_headers()
        request.wfile.write(self.body)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(detector_file, "user_cache_path", lambda name: tmp_path / "cache" / name)
    return tmp_path / "cache" / "agegender"


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[Site]:
    site = Site()
    with web_server(site.answer) as address:
        monkeypatch.setattr(detector_file, "YUNET_URL", f"{address}/yunet.onnx")
        monkeypatch.setattr(detector_file, "YUNET_SHA256", hashlib.sha256(PUBLISHED).hexdigest())
        yield site


def test_the_file_is_downloaded_and_then_found(site: Site, cache: Path) -> None:
    assert find() is None
    path = fetch()
    assert path == find() == cached_path()
    assert path.parent == cache
    assert path.read_bytes() == PUBLISHED
    assert [file.name for file in cache.iterdir()] == [path.name]
    assert site.requests == ["/yunet.onnx", "/elsewhere"]


@pytest.mark.parametrize(
    "body", [PUBLISHED[:-1] + b"?", PUBLISHED[:1000], b"", PUBLISHED + b"more"],
    ids=["altered", "short", "empty", "longer"],
)  # fmt: skip
def test_other_bytes_than_the_published_are_refused_and_not_kept(
    site: Site, cache: Path, body: bytes
) -> None:
    site.body = body
    with pytest.raises(DetectorFileError, match="What was downloaded is not the published YuNet"):
        fetch()
    assert not cache.exists()
    assert find() is None


def test_a_download_that_breaks_off_or_is_refused_is_one_line(site: Site, cache: Path) -> None:
    site.claimed_length = len(PUBLISHED) + 1
    with pytest.raises(DetectorFileError, match=r"^YuNet could not be downloaded .*cannot be reached[^\n]*$"):
        fetch()
    site.claimed_length, site.status = None, 404
    with pytest.raises(
        DetectorFileError, match=r"^YuNet could not be downloaded .*answered 404[^\n]*--from PATH"
    ):
        fetch()
    assert not cache.exists()


def test_a_file_that_one_has_is_taken_without_the_network(site: Site, tmp_path: Path) -> None:
    mine = tmp_path / "mine.onnx"
    mine.write_bytes(PUBLISHED)
    assert fetch(mine).read_bytes() == PUBLISHED
    assert site.requests == []
    mine.write_bytes(b"something else")
    with pytest.raises(DetectorFileError, match=r"mine\.onnx is not the published YuNet"):
        fetch(mine)
    assert find() == cached_path()
    with pytest.raises(DetectorFileError, match=r"missing\.onnx cannot be read"):
        fetch(tmp_path / "missing.onnx")


def test_a_cached_file_that_was_damaged_is_refused_until_it_is_fetched_again(site: Site) -> None:
    path = fetch()
    path.write_bytes(PUBLISHED[:-1])
    with pytest.raises(DetectorFileError, match="run `agegender fetch-detector`"):
        find()
    fetch()
    assert find() == path
