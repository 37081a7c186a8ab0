"""The model that comes with spermseg. It has learned from drawn micrographs alone: no patient is in it."""

from pathlib import Path

from spermseg.storage.filesystem import Location

SHIPPED = Path(__file__).with_name("drawn.safetensors")


def model_location(given: str | None, endpoint_url: str | None) -> Location:
    """Return where a model file is: the one that was given, else the one that comes with spermseg."""
    return Location(str(SHIPPED)) if given is None else Location(given, endpoint_url)
