"""The number of cores that this process may use."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def available_cores() -> int:
    """Return the number of cores that this process may use: its affinity or, if lower, its container's limit."""
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    return math.ceil(min(cores, _quota()))


def _quota() -> float:
    """Return the CPU limit of the control group (v2 or v1) in cores, or infinity."""
    with suppress(OSError, ValueError):  # ValueError for "max"
        quota, period = (_CGROUP / "cpu.max").read_text().split()
        return int(quota) / int(period)
    with suppress(OSError, ValueError):
        quota, period = ((_CGROUP / "cpu" / f"cpu.cfs_{of}_us").read_text() for of in ("quota", "period"))
        if int(quota) > 0:  # -1 means no limit
            return int(quota) / int(period)
    return math.inf
