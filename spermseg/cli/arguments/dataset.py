"""The dataset that a command was given, where it was not told to draw micrographs instead."""

from spermseg.dataset.dataset import Dataset, open_dataset
from spermseg.errors import ConfigError
from spermseg.storage.filesystem import Location


def given_dataset(dataset: str | None, endpoint_url: str | None, *, synthetic: bool) -> Dataset | None:
    """Return the dataset, or None where synthetic micrographs are asked for.

    Raises:
        ConfigError: both are, or neither.
        DatasetError: there is none.
    """
    if synthetic == (dataset is not None):
        raise ConfigError("give one of --dataset DATASET and --synthetic")
    return None if dataset is None else open_dataset(Location(dataset, endpoint_url))
