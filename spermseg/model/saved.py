"""A model is one file: safetensors weights with their description as JSON in the file's own metadata. No pickle."""

import hashlib
import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from spermseg.errors import ConfigError, ModelFileError
from spermseg.micrograph.tiling import Tiles, WholeFrame
from spermseg.model.unet import UNet, UNetConfig
from spermseg.storage.filesystem import Location

FORMAT_VERSION = 1
METADATA_KEY = "spermseg"


@dataclass(frozen=True, kw_only=True)
class ModelDescription:
    """What a model file says of itself."""

    network: UNetConfig
    """The network's shape."""
    view: Annotated[WholeFrame | Tiles, Field(discriminator="kind")]
    """How the network sees a micrograph."""
    threshold: float
    """Probability from which a pixel is in the mask, 0-1."""
    min_area: int
    """Least area of a cell, px at native resolution."""
    recipe: str
    """Name of the recipe that trained it."""
    settings: dict[str, Any]
    """Every setting of the training."""
    training_data_sha256: str
    """Digest of the dataset that it was trained on."""
    um_per_px: float | None = None
    """Pixel size of the pictures that it was trained on; None where unknown."""
    scores: dict[str, float] = field(default_factory=dict)
    """Scores on the validation split, at network resolution."""
    version: str = ""
    """Version of spermseg that trained it."""
    format: int = FORMAT_VERSION
    """Version of this description."""


DESCRIPTION = TypeAdapter(ModelDescription)


@dataclass(frozen=True, kw_only=True, eq=False)
class SavedModel:
    """A network with its description and name."""

    network: UNet
    """In evaluation mode, on the CPU."""
    description: ModelDescription
    sha256: str
    """Digest of the file: the model's name in every result row."""


def encode_model(weights: dict[str, Tensor], description: ModelDescription) -> bytes:
    """Return the bytes of a model file; the same weights and description give the same bytes."""
    text = json.dumps(DESCRIPTION.dump_python(description, mode="json"), sort_keys=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    return save(tensors, metadata={METADATA_KEY: text})


def load_model(location: Location) -> SavedModel:
    """Read a model file.

    Raises:
        ModelFileError: not a safetensors file, damaged, not of spermseg, of a newer format, or its weights do not fit.
        ObjectMissingError: it is not there.
    """
    return decode_model(location.read_bytes(), location.uri)


def decode_model(data: bytes, name: str = "the model") -> SavedModel:
    """Read the bytes of a model file; `name` is for error messages. Errors as `load_model`."""
    weights, text = _read_safetensors(data, name)
    description = _read_description(text, name)
    network = UNet(description.network)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise ModelFileError(f"{name}: its weights do not fit its description; it is damaged: train again") from error
    return SavedModel(network=network.eval(), description=description, sha256=hashlib.sha256(data).hexdigest())


def _read_safetensors(data: bytes, name: str) -> tuple[dict[str, Tensor], str | None]:
    with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:  # only a path gives the metadata
        Path(file.name).write_bytes(data)
        try:
            with safe_open(file.name, framework="pt") as opened:
                weights = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 (not a dict)
                return weights, (opened.metadata() or {}).get(METADATA_KEY)
        except (SafetensorError, OSError, ValueError) as error:
            raise ModelFileError(
                f"{name} is not a model file or is damaged ({error}); a .safetensors file written by "
                "`spermseg train` is needed"
            ) from error


def _read_description(text: str | None, name: str) -> ModelDescription:
    if text is None:
        raise ModelFileError(f"{name} has no spermseg description; a file written by `spermseg train` is needed")
    try:
        raw = json.loads(text)
        if isinstance(raw, dict) and raw.get("format") != FORMAT_VERSION:
            raise ModelFileError(f"{name} has format {raw.get('format')}; this version reads format {FORMAT_VERSION}")
        return DESCRIPTION.validate_python(raw)
    except (ValidationError, ConfigError, json.JSONDecodeError) as error:
        raise ModelFileError(f"{name} has a damaged description: {str(error).splitlines()[0]}") from error
