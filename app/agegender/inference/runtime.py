"""ONNX Runtime sessions that run on the calling thread and share one memory arena."""

from __future__ import annotations

from pathlib import Path

import onnxruntime

# By default each network has an arena of its own, which doubles as it grows: a service of two workers took 194 MB when
# ready and 254 after 1,000 requests, with one arena 184 and 234, and was no faster.
onnxruntime.create_and_register_allocator(
    onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    ),
    onnxruntime.OrtArenaCfg({"arena_extend_strategy": 1}),  # grow by what is needed, not by doubling
)


def load(model: Path | bytes) -> onnxruntime.InferenceSession:
    """Load a network from a file or its bytes; threads may share it. Raises ONNX Runtime's exceptions."""
    options = onnxruntime.SessionOptions()
    # One thread is the calling one. There is a worker for each core, and threads of the runtime would compete
    # with them.
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.use_env_allocators", "1")
    # It warns of initializers in YuNet's file that the joined heads do not use.
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
