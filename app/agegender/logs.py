"""The log: one JSON object per line, on standard error."""

from __future__ import annotations

import json
import logging
from typing import Any


class JsonLines(logging.Formatter):
    """Formats a record as a JSON object: time, level, message, the fields of `extra={"fields": ...}`, traceback."""

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
        return json.dumps(line, ensure_ascii=False)


LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"json": {"()": JsonLines}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
    "loggers": {
        "agegender": {"handlers": ["stderr"], "level": "INFO", "propagate": False},
        # Start and stop. Its access log is off: the one of api/request_log.py says more.
        "uvicorn": {"handlers": ["stderr"], "level": "INFO", "propagate": False},
        # Its warnings quote what the caller sent. The request log has the refusal.
        "python_multipart": {"level": "ERROR"},
    },
    # Records of all other libraries become JSON too.
    "root": {"handlers": ["stderr"], "level": "WARNING"},
}
"""Configuration for `logging.config.dictConfig` and for uvicorn's `log_config`."""
