"""The number of cores that this process may use."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def available_cores() -> int:
    """Return the cores that this process may run on, or its container's limit if that is lower; at least 1."""
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    return math.ceil(min(cores, _quota()))


def _quota() -> float:
    """Return the limit of the control group, version 2 or 1, in cores; infinite without one."""
    with suppress(OSError, ValueError):  # the latter for "max"
        quota, period = (_CGROUP / "cpu.max").read_text().split()
        return int(quota) / int(period)
    with suppress(OSError, ValueError):
        quota, period = ((_CGROUP / "cpu" / f"cpu.cfs_{of}_us").read_text() for of in ("quota", "period"))
        if int(quota) > 0:  # -1 for none
            return int(quota) / int(period)
    return math.inf
