"""The dataset of a command: `--dataset`, or `--synthetic` instead."""

from spermseg.dataset.dataset import Dataset, open_dataset
from spermseg.errors import ConfigError
from spermseg.storage.filesystem import Location


def given_dataset(dataset: str | None, endpoint_url: str | None, *, synthetic: bool) -> Dataset | None:
    """Return the dataset, or None for synthetic micrographs.

    Raises:
        ConfigError: both or neither were given.
        DatasetError: the place holds no dataset.
    """
    if synthetic == (dataset is not None):
        raise ConfigError("give one of --dataset DATASET and --synthetic")
    return None if dataset is None else open_dataset(Location(dataset, endpoint_url))
