"""What several of the training job's tests begin with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from face_images import write_chips

if TYPE_CHECKING:
    from training import data


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> data.Faces:
    """60 prepared chips."""
    from training import data  # its packages may not be installed: the tests that need it say so

    folder = tmp_path_factory.mktemp("chips")
    write_chips(folder / "UTKFace", 60)
    return data.prepare(folder / "cache", folder / "UTKFace")[0]
