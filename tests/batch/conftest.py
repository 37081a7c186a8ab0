"""What the tests of the night share: the model, a folder of uploads, and the pipeline without Ray."""

import pytest
import torch
from dark_cells import darkness_model, run_in_process, write_uploads

from spermseg.batch import plan, run
from spermseg.storage.filesystem import Location


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def model() -> bytes:
    return darkness_model()


@pytest.fixture
def uploads(tmp_path) -> Location:
    """A night's uploads in a folder."""
    source = Location(str(tmp_path / "uploads"))
    write_uploads(source)
    return source


@pytest.fixture
def out(tmp_path) -> Location:
    return Location(str(tmp_path / "results"))


@pytest.fixture
def small_units(monkeypatch):
    """Units of four micrographs, so that a few files make several."""
    monkeypatch.setattr(plan, "UNIT_MICROGRAPHS", 4)


@pytest.fixture
def without_ray(monkeypatch):
    """The pipeline's stages one after the other in this process."""
    monkeypatch.setattr(run, "run_pipeline", run_in_process)
