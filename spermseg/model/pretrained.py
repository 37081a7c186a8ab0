"""The bundled model. It has learned from synthetic micrographs alone: no patient is in it."""

from pathlib import Path

from spermseg.storage.filesystem import Location

PRETRAINED = Path(__file__).with_name("pretrained.safetensors")


def model_location(given: str | None, endpoint_url: str | None) -> Location:
    """Return where a model file is: the one that was given, else the bundled one."""
    return Location(str(PRETRAINED)) if given is None else Location(given, endpoint_url)
