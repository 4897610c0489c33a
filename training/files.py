"""Write files atomically."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any


def write_aside(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` make a file next to `path`, then rename it: after a crash, `path` is the old or the new file.

    If `write` fails, its file is removed.
    """
    partial = path.with_name(f"partial.{path.name}")
    try:
        write(partial)
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):
            partial.unlink()  # it may have filled the disk
        raise


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` as indented JSON."""
    write_aside(path, lambda partial: partial.write_text(json.dumps(value, indent=2) + "\n"))
