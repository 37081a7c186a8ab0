"""What the tests of the night share: the model, a folder of uploads, and the pipeline without Ray."""

import pytest
from dark_cells import darkness_model

from spermseg.batch import plan
from spermseg.storage.filesystem import Location


@pytest.fixture(scope="session")
def model() -> bytes:
    return darkness_model()


@pytest.fixture
def out(tmp_path) -> Location:
    return Location(str(tmp_path / "results"))


@pytest.fixture
def small_units(monkeypatch):
    """Units of four micrographs, so that a few files make several."""
    monkeypatch.setattr(plan, "UNIT_MICROGRAPHS", 4)
