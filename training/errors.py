"""Errors of the training job that its user can correct."""

from __future__ import annotations


class TrainingError(Exception):
    """The job cannot go on; str(e) is a sentence that says why and what to do."""
