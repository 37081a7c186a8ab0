"""A tiny dataset of drawn micrographs."""

import pytest

from spermseg.micrograph.clinic import ClinicConfig, write_clinic
from spermseg.micrograph.synthetic import DrawConfig
from spermseg.storage.filesystem import Location
from spermseg.training.dataset import Dataset, open_dataset
from spermseg.training.prepare import PrepareConfig, prepare_dataset
from spermseg.training.split import SplitConfig


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory) -> Dataset:
    """Twelve small micrographs of six patients: 8 to train on, 2 to validate, 2 to test."""
    folder = tmp_path_factory.mktemp("tiny")
    drawing = DrawConfig(height=160, width=200, scale=0.5, cells=(1, 3))
    clinic = write_clinic(folder / "clinic", ClinicConfig(patients=6, fields=2, upload_fields=1, drawing=drawing))
    out = Location(str(folder / "dataset"))
    split = SplitConfig(fractions=(0.66, 0.17, 0.17), group_pattern="(patient-[0-9]+)")
    prepare_dataset(clinic.images, clinic.annotations, out, PrepareConfig(split=split))
    return open_dataset(out)
