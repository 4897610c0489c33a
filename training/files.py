"""Files that are whole or not there, whenever the program is killed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any


def write_aside(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` make a file beside `path`, then put it there in one step: a kill leaves the old or the new.

    Where `write` fails, nothing of what it made is left.
    """
    partial = path.with_name(f"partial.{path.name}")
    try:
        write(partial)
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):
            partial.unlink()  # it may be what filled the disk
        raise


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` as indented JSON."""
    write_aside(path, lambda partial: partial.write_text(json.dumps(value, indent=2) + "\n"))
