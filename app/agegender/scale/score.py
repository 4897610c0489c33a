"""Predict a data set into Parquet files in a folder, in processes of this machine or by Ray Data on many machines.

The folder holds a plan, which divides the images into shards, and a file for each shard that is done. A file appears
only when it is complete: a run that was killed can be resumed.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import FileSelector, FileType

from agegender import table
from agegender.ahead import ahead
from agegender.answers import Prediction
from agegender.cores import available_cores
from agegender.inputs import Options
from agegender.predictor import Predictor
from agegender.scale.sources import Part, ScoreError, open_folder, open_source, plan, read

_TYPES = {str: pa.string(), int: pa.int64(), float: pa.float64(), list: pa.list_(pa.float32())}
SCHEMA = pa.schema({name: _TYPES[kind] for name, kind in table.COLUMNS.items()} | {"row": pa.int64()})
"""The columns of `predict --csv`, and the row of an image that comes from a Parquet file."""

# PyArrow, Spark and DuckDB ignore files of a data set whose names begin with _ or .
_PLAN = "_plan.parquet"
_PLAN_SCHEMA = pa.schema({name: pa.string() if name == "path" else pa.int64() for name in Part._fields})


class Results:
    """The results of `job` in a folder: its plan, which is made if there is none, and the finished shards.

    Without `job`, the folder must hold a plan. Raises ScoreError, also if the plan is of another job.
    """

    def __init__(self, folder: str, job: dict[str, Any] | None = None) -> None:
        self.folder = folder if "://" in folder else os.path.abspath(folder)
        self._files, self._folder = open_folder(folder)
        path = f"{self._folder}/{_PLAN}"
        try:
            if job is not None and self._files.get_file_info(path).type == FileType.NotFound:
                self._files.create_dir(self._folder)
                with self._new_file(_PLAN) as file:
                    _write_plan(file, job)
            self._plan = pq.ParquetFile(self._files.open_input_file(path))
            found = self._files.get_file_info(FileSelector(self._folder))
        except OSError as error:
            raise ScoreError(f"{folder} cannot be used for the results ({error}).") from error
        written = self._plan.metadata.metadata
        self.job = json.loads(written[b"job"])
        if job not in (None, self.job):
            raise ScoreError(
                f"{folder} holds results of other sources, options or models: choose another folder, or delete it."
            )
        names = {info.base_name for info in found}
        self.pending: list[int] = []
        self.images = int(written[b"images"])
        self.images_done = 0
        for shard in range(self._plan.num_row_groups):
            if _name(shard) in names:
                self.images_done += sum(part.images for part in self.parts(shard))
            else:
                self.pending.append(shard)

    def parts(self, shard: int) -> list[Part]:
        """Return the parts of a shard."""
        return [Part(**row) for row in self._plan.read_row_group(shard).to_pylist()]

    def write(self, shard: int, rows: list[dict[str, Any]]) -> None:
        """Write the rows of a shard, which is then done. Raises ScoreError."""
        try:
            with self._new_file(_name(shard)) as file:
                pq.write_table(pa.Table.from_pylist(rows, SCHEMA), file)
        except OSError as error:
            raise ScoreError(f"The results cannot be written into {self.folder} ({error}).") from error

    @contextmanager
    def _new_file(self, name: str) -> Iterator[pa.NativeFile]:
        """Open a file that gets its name when it is complete: PyArrow keeps a file cut short by an exception."""
        with self._files.open_output_stream(f"{self._folder}/.{name}") as file:
            yield file
        self._files.move(f"{self._folder}/.{name}", f"{self._folder}/{name}")


def _name(shard: int) -> str:
    return f"part-{shard:07}.parquet"


def _write_plan(file: pa.NativeFile, job: dict[str, Any]) -> None:
    images = 0
    with pq.ParquetWriter(file, _PLAN_SCHEMA) as writer:
        for parts in plan(list(map(open_source, job["sources"])), job["column"]):
            writer.write_table(pa.Table.from_pylist([part._asdict() for part in parts], _PLAN_SCHEMA))
            images += sum(part.images for part in parts)
        writer.add_key_value_metadata({"job": json.dumps(job), "images": str(images)})


class Scorer:
    """Score shards of the results in a folder, with models that are loaded once."""

    def __init__(self, folder: str) -> None:
        self._results = Results(folder)
        job = self._results.job
        self._sources = list(map(open_source, job["sources"]))
        self._column = job["column"]
        self._options: Options = job["options"]
        self._predictor = Predictor()
        _example(self._predictor, self._options)

    def __call__(self, row: dict[str, int]) -> dict[str, int]:
        """Score the shard `row["id"]`. Return its numbers of images, faces, images without a face, and errors."""
        shard = row["id"]
        rows: list[dict[str, Any]] = []
        counts = Counter(images=0, faces=0, without_face=0, errors=0)
        for image in read(self._sources, self._results.parts(shard), self._column):
            outcome = image.data if isinstance(image.data, str) else self._predict(image.data)
            rows += [{**each, "row": image.row} for each in table.rows(image.filename, outcome)]
            counts["images"] += 1
            if isinstance(outcome, str):
                counts["errors"] += 1
            elif outcome.faces:
                counts["faces"] += len(outcome.faces)
            else:
                counts["without_face"] += 1
        self._results.write(shard, rows)
        return dict(counts)

    def _predict(self, image: bytes) -> Prediction | str:
        try:
            return self._predictor.predict(image, **self._options)
        except Exception as error:  # model and detector worked for the example: it is due to this image
            return str(error) or type(error).__name__


def describe(sources: list[str], column: str | None, options: Options) -> dict[str, Any]:
    """Return the job: sources, column and options, including the model and the detector that are used here.

    Raises what `Predictor` raises.
    """
    answer = _example(Predictor(), options)
    return {
        "sources": [source if "://" in source else os.path.abspath(source) for source in sources],
        "column": column,
        "options": {**options, "model": answer.model, "detector": answer.detector},
    }


def _example(predictor: Predictor, options: Options) -> Prediction:
    """Predict a grey image. Raises whatever every other prediction would raise too."""
    return predictor.predict(np.full((128, 128, 3), 128, np.uint8), channels="BGR", **options)


def run(results: Results, workers: int | None, ray: str | None) -> Iterator[dict[str, int]]:
    """Score the pending shards, and yield what `Scorer` returns for each. Raises ScoreError."""
    if not results.pending:
        return iter(())
    if ray is None:
        return _in_processes(results, min(workers or available_cores(), len(results.pending)))
    return _on_ray(results, workers, ray)


def _in_processes(results: Results, workers: int) -> Iterator[dict[str, int]]:
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _end_with_parent)
    try:
        rows = ({"id": shard} for shard in results.pending)
        yield from ahead(pool, partial(_score, results.folder), rows, 2 * workers)
    except BrokenProcessPool:
        raise ScoreError(
            "A worker was killed, perhaps for lack of memory. Run the same command again to resume, with fewer "
            "--workers if it happens again."
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the parent prints the message

    def wait(parent: multiprocessing.process.BaseProcess) -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, args=[multiprocessing.parent_process()], daemon=True).start()


_scorer = cache(Scorer)


def _score(folder: str, row: dict[str, int]) -> dict[str, int]:
    return _scorer(folder)(row)


def _on_ray(results: Results, workers: int | None, address: str) -> Iterator[dict[str, int]]:
    import ray
    import ray.data

    if address != "local":
        # One attempt, which takes 40 seconds: Ray would make 20 of them.
        os.environ.setdefault("RAY_gcs_server_port_wait_time_s", "1")
    try:
        ray.init(address, log_to_driver=False)
    except (ConnectionError, ValueError) as error:
        raise ScoreError(f"No Ray cluster can be reached at {address} ({error}).") from error
    ray.data.DataContext.get_current().enable_progress_bars = False
    actors = workers or int(ray.cluster_resources()["CPU"])
    shards = [{"id": shard} for shard in results.pending]
    rows = ray.data.from_items(shards, override_num_blocks=len(shards))
    try:
        pool = ray.data.ActorPoolStrategy(min_size=1, max_size=actors)
        yield from rows.map(Scorer, fn_constructor_args=[results.folder], compute=pool).iter_rows()
    except ray.exceptions.RayError as error:
        why = str(error).strip().splitlines()[-1]  # after a traceback
        raise ScoreError(f"Ray failed; run the same command again to resume: {why}") from error
    finally:
        ray.shutdown()
