"""`agegender score` from a bucket into a bucket, of an S3 server on this machine."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import ASTRONAUT, agegender

pytest.importorskip("pyarrow", reason="needs PyArrow: it is in requirements/dev.txt")
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from agegender.scale.sources import open_folder, open_source

MOTO = Path(sys.prefix, "moto/bin/moto_server")
KEYS = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any"}


@pytest.fixture
def options() -> Iterator[str]:
    """Of an address s3://..., which lead to the server."""
    if not MOTO.exists():
        pytest.skip("needs moto: `make test-scale` runs these tests")
    command = [MOTO, "-H", "127.0.0.1", "-p", "0"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        (address,) = next(filter(None, (re.findall(r"http://(\S+)", line) for line in server.stderr)))
        yield f"?scheme=http&endpoint_override={address}&region=us-east-1"
        server.kill()


def test_images_and_results_may_be_in_buckets(
    options: str, models_folder: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    files, bucket = open_folder(f"s3://album/{options}&allow_bucket_creation=true")
    files.create_dir(bucket)
    astronaut, encoded = ASTRONAUT.read_bytes(), io.BytesIO()
    pq.write_table(pa.table({"image": [astronaut, None]}), encoded)
    for name, content in {
        "astronaut.jpg": astronaut,
        "deep/junk.jpg": b"this is no image",
        "set.parquet": encoded.getvalue(),
    }.items():
        with files.open_output_stream(f"album/in/{name}") as file:
            file.write(content)

    def score() -> str:
        options_of_score = (f"s3://album/i*{options}", f"--output=s3://album/out{options}", "--workers=1")
        done = agegender(empty_cache, "score", *options_of_score, AGEGENDER_MODELS=str(models_folder), **KEYS)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "2 faces, 0 images without a face, 2 errors." in score()
    rows = ds.dataset("album/out", filesystem=files, format="parquet").to_table().to_pylist()
    assert sorted((row["filename"], row["row"] or 0, row["error"] is None) for row in rows) == [
        ("s3://album/in/astronaut.jpg", 0, True),
        ("s3://album/in/deep/junk.jpg", 0, False),
        ("s3://album/in/set.parquet", 0, True),
        ("s3://album/in/set.parquet", 1, False),
    ]
    assert score().startswith("0 images in ")


def test_buckets_of_google_are_known() -> None:
    source = open_source("gs://album/2024/*.jpg?retry_limit_seconds=30")
    assert (source.files.type_name, source.root) == ("gcs", "album/2024")
