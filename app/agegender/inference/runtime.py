"""How ONNX Runtime runs all networks: on the thread that calls, and out of one memory arena."""

from __future__ import annotations

from pathlib import Path

import onnxruntime

# By default each network has an arena of its own, which doubles as it grows: a service of two workers took 194 MB when
# ready and 254 after 1,000 requests, with one arena 184 and 234, and was no faster.
onnxruntime.create_and_register_allocator(
    onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    ),
    onnxruntime.OrtArenaCfg({"arena_extend_strategy": 1}),  # by as much as is asked for
)


def load(model: Path | bytes) -> onnxruntime.InferenceSession:
    """A network from its file or the bytes of one; threads may share it. Raises ONNX Runtime's exceptions."""
    options = onnxruntime.SessionOptions()
    # The calling thread does it all: there are as many workers as cores, and threads of the runtime's own
    # would take turns with them, or spin. With one it starts none.
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.use_env_allocators", "1")
    # Else it warns of numbers in YuNet's file that the joined heads leave unused.
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
