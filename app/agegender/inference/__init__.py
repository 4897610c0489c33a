"""Models in memory, faces to ages and genders, and the bounded pool that does the work. No HTTP."""

import os

# ONNX Runtime reads it when it is loaded: else it makes an id of this machine, and events to be sent to its maker.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
