"""The log: one JSON object a line, on standard error."""

from __future__ import annotations

import json
import logging
from typing import Any

# json.dumps makes a new encoder at each call that sets an option.
_encode = json.JSONEncoder(ensure_ascii=False).encode


class JsonLines(logging.Formatter):
    """One JSON object a record: time, level, message, whatever `extra={"fields": ...}` holds, traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as a line of JSON."""
        line = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return _encode(line)


LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"json": {"()": JsonLines}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
    "loggers": {
        "agegender": {"handlers": ["stderr"], "level": "INFO", "propagate": False},
        # Start and stop. Its access log is off: ours says more.
        "uvicorn": {"handlers": ["stderr"], "level": "INFO", "propagate": False},
        # It quotes what a caller sent in its warnings; the refusal is in our own log.
        "python_multipart": {"level": "ERROR"},
    },
    # What any other library logs becomes JSON as well.
    "root": {"handlers": ["stderr"], "level": "WARNING"},
}
"""For `logging.config.dictConfig`, or as uvicorn's `log_config`."""
