"""What stops the job and is nobody's bug."""

from __future__ import annotations


class TrainingError(Exception):
    """The job cannot go on; str(e) is a sentence that says why and what to do."""
