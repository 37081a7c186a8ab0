"""The bundled model. It was trained on synthetic micrographs only: it has seen no data of patients."""

from pathlib import Path

from spermseg.storage.filesystem import Location

PRETRAINED = Path(__file__).with_name("pretrained.safetensors")


def model_location(given: str | None, endpoint_url: str | None) -> Location:
    """Return the location of a model file; None is the bundled model."""
    return Location(str(PRETRAINED)) if given is None else Location(given, endpoint_url)
