"""Predictions for a data set, as Parquet files in a folder: by processes of this machine, or by Ray Data on many.

The folder holds a plan, which divides the images among shards, and a file for each shard that is done. Such a file
appears whole or not at all, so that a run that was killed goes on where it was.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
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
from agegender.answers import Prediction
from agegender.cores import available_cores
from agegender.inputs import Options
from agegender.predictor import Predictor
from agegender.scale.sources import Part, ScoreError, ahead, open_folder, open_source, plan, read

_TYPES = {str: pa.string(), int: pa.int64(), float: pa.float64(), list: pa.list_(pa.float32())}
SCHEMA = pa.schema({name: _TYPES[kind] for name, kind in table.COLUMNS.items()} | {"row": pa.int64()})
"""Of the files written: the columns of `predict --csv`, and the image's row where it was in a Parquet file."""

# PyArrow, Spark and DuckDB read no file whose name begins with _ or . as part of a data set.
_PLAN = "_plan.parquet"
_PLAN_SCHEMA = pa.schema(
    {
        "source": pa.int32(),
        "path": pa.string(),
        "row_group": pa.int32(),
        "start": pa.int64(),
        "images": pa.int64(),
    }
)


class Results:
    """The folder: its plan, which is made unless it is there, and the shards that are done.

    Raises ScoreError, also where the plan is of other sources or options.
    """

    def __init__(self, folder: str, asked: dict[str, Any] | None, planned: Callable[[int], None]) -> None:
        self.folder = folder if "://" in folder else os.path.abspath(folder)
        self._files, self._folder = open_folder(folder)
        path = f"{self._folder}/{_PLAN}"
        try:
            if asked is not None and self._files.get_file_info(path).type == FileType.NotFound:
                self._files.create_dir(self._folder)
                with self._new_file(_PLAN) as file:
                    _write_plan(file, asked, planned)
            self._plan = pq.ParquetFile(self._files.open_input_file(path))
            found = self._files.get_file_info(FileSelector(self._folder))
        except OSError as error:
            raise ScoreError(f"{folder} can hold no results ({error}).") from error
        written = self._plan.metadata.metadata
        self.asked = json.loads(written[b"asked"])
        if asked not in (None, self.asked):
            raise ScoreError(
                f"{folder} holds results of other sources, options or models: choose another folder, or delete it."
            )
        names = {info.base_name for info in found}
        self.left: list[int] = []
        self.images = int(written[b"images"])
        self.images_done = 0
        for shard in range(self._plan.num_row_groups):
            if _name(shard) in names:
                self.images_done += sum(part.images for part in self.parts(shard))
            else:
                self.left.append(shard)

    def parts(self, shard: int) -> list[Part]:
        """What the shard consists of."""
        return [Part(**row) for row in self._plan.read_row_group(shard).to_pylist()]

    def write(self, shard: int, rows: list[dict[str, Any]]) -> None:
        """Store the rows of a shard, which then is done. Raises ScoreError."""
        try:
            with self._new_file(_name(shard)) as file:
                pq.write_table(pa.Table.from_pylist(rows, SCHEMA), file)
        except OSError as error:
            raise ScoreError(f"The results cannot be written into {self.folder} ({error}).") from error

    @contextmanager
    def _new_file(self, name: str) -> Iterator[pa.NativeFile]:
        """A file that gets its name when it is whole: PyArrow also keeps what an interruption cut short."""
        with self._files.open_output_stream(f"{self._folder}/.{name}") as file:
            yield file
        self._files.move(f"{self._folder}/.{name}", f"{self._folder}/{name}")


def _name(shard: int) -> str:
    return f"part-{shard:07}.parquet"


def _write_plan(file: pa.NativeFile, asked: dict[str, Any], planned: Callable[[int], None]) -> None:
    images = 0
    with pq.ParquetWriter(file, _PLAN_SCHEMA) as writer:
        for parts in plan(list(map(open_source, asked["sources"])), asked["column"]):
            writer.write_table(pa.Table.from_pylist([part._asdict() for part in parts], _PLAN_SCHEMA))
            images += sum(part.images for part in parts)
            planned(images)
        writer.add_key_value_metadata({"asked": json.dumps(asked), "images": str(images)})


class Scorer:
    """Scores shards of the results in a folder; loads the models once."""

    def __init__(self, folder: str) -> None:
        self._results = Results(folder, None, lambda _: None)
        asked = self._results.asked
        self._sources = list(map(open_source, asked["sources"]))
        self._column = asked["column"]
        self._options: Options = asked["options"]
        self._predictor = Predictor()
        _example(self._predictor, self._options)

    def __call__(self, row: dict[str, int]) -> dict[str, int]:
        """Score the shard of that `id`: how many images, faces, images without a face and errors it has."""
        shard = row["id"]
        rows: list[dict[str, Any]] = []
        counts = Counter(images=0, faces=0, without_face=0, errors=0)
        for image in read(self._sources, self._results.parts(shard), self._column):
            outcome = image.data if isinstance(image.data, str) else self._predict(image.data)
            rows += [{**each, "row": image.row} for each in table.rows(image.filename, outcome)]
            counts["images"] += 1
            if isinstance(outcome, str):
                counts["errors"] += 1
            else:
                counts["faces"] += len(outcome.faces)
                counts["without_face"] += not outcome.faces
        self._results.write(shard, rows)
        return dict(counts)

    def _predict(self, image: bytes) -> Prediction | str:
        try:
            return self._predictor.predict(image, **self._options)
        except Exception as error:  # models and detector ran before: it is this image's fault
            return str(error) or type(error).__name__


def question(sources: list[str], column: str | None, options: Options) -> dict[str, Any]:
    """What is asked of the data set, with the model and the detector that this machine answers with.

    Raises what `Predictor` raises.
    """
    answer = _example(Predictor(), options)
    return {
        "sources": [source if "://" in source else os.path.abspath(source) for source in sources],
        "column": column,
        "options": {**options, "model": answer.model, "detector": answer.detector},
    }


def _example(predictor: Predictor, options: Options) -> Prediction:
    """The answer for a grey picture; raises what would end every other one too."""
    return predictor.predict(np.full((128, 128, 3), 128, np.uint8), channels="BGR", **options)


def run(results: Results, workers: int | None, ray: str | None) -> Iterator[dict[str, int]]:
    """Score the shards that are left: what `Scorer` says of each. Raises what ends it."""
    if not results.left:
        return iter(())
    if ray is None:
        return _in_processes(results, min(workers or available_cores(), len(results.left)))
    return _on_ray(results, workers, ray)


def _in_processes(results: Results, workers: int) -> Iterator[dict[str, int]]:
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _end_with_parent)
    try:
        rows = ({"id": shard} for shard in results.left)
        yield from ahead(pool, partial(_score, results.folder), rows, 2 * workers)
    except BrokenProcessPool:
        raise ScoreError(
            "A worker was killed, as the system does where memory is short: the same command goes on from here, "
            "with fewer --workers if need be."
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # its parent says what there is to say

    def wait(parent: multiprocessing.process.BaseProcess) -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, args=[multiprocessing.parent_process()], daemon=True).start()


@cache
def _scorer(folder: str) -> Scorer:
    return Scorer(folder)


def _score(folder: str, row: dict[str, int]) -> dict[str, int]:
    return _scorer(folder)(row)


def _on_ray(results: Results, workers: int | None, address: str) -> Iterator[dict[str, int]]:
    import ray
    import ray.data

    ray.init(address, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    actors = workers or int(ray.cluster_resources()["CPU"])
    shards = [{"id": shard} for shard in results.left]
    rows = ray.data.from_items(shards, override_num_blocks=len(shards))
    try:
        pool = ray.data.ActorPoolStrategy(min_size=1, max_size=actors)
        yield from rows.map(Scorer, fn_constructor_args=[results.folder], compute=pool).iter_rows()
    except ray.exceptions.RayError as error:
        why = str(error).strip().splitlines()[-1]  # after a traceback
        raise ScoreError(f"Ray gave up, and the same command goes on from here: {why}") from error
    finally:
        ray.shutdown()
