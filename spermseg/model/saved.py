"""A network and its model file. `model.description` has the format."""

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

import torch
from safetensors.torch import load, save
from torch import Tensor

from spermseg.errors import ConfigError
from spermseg.model.description import (
    DIGEST,
    METADATA_KEY,
    ModelDescription,
    Stored,
    describe_model,
    digest_of,
    read_model,
)
from spermseg.model.unet import UNet
from spermseg.storage.filesystem import Location


@dataclass(frozen=True, kw_only=True, eq=False)
class SavedModel:
    """A network with its description and the digest of its file."""

    network: UNet
    """In evaluation mode, on the CPU."""
    description: ModelDescription
    sha256: str
    """Digest of the file: the model's name in every result row."""


def encode_model(weights: dict[str, Tensor], description: ModelDescription) -> bytes:
    """Return the bytes of a model file. The same weights and description give the same bytes.

    Raises:
        ConfigError: JSON cannot hold a setting in the description.
    """
    finite = {name: score for name, score in description.scores.items() if math.isfinite(score)}
    try:
        fields = json.loads(json.dumps(asdict(replace(description, scores=finite)), allow_nan=False))
    except (ValueError, TypeError) as error:
        raise ConfigError(f"got settings that JSON cannot hold: {error}; text and finite numbers are needed") from error
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    text = json.dumps(fields | {DIGEST: digest_of(fields, stored(tensors))}, sort_keys=True)
    return save(tensors, metadata={METADATA_KEY: text})


def stored(tensors: dict[str, Tensor]) -> Iterator[Stored]:
    """Yield contiguous tensors on the CPU in the form that `digest_of` reads."""
    for name, tensor in tensors.items():
        yield name, str(tensor.dtype), list(tensor.shape), tensor.flatten().view(torch.uint8).numpy().data


def load_model(location: Location) -> SavedModel:
    """Read a model file.

    Raises:
        ModelFileError: the file is not a safetensors file, is damaged, is not of spermseg, has another format, or has
            weights that do not fit.
        ObjectMissingError: there is no such file.
    """
    return decode_model(read_model(location), location.uri)


def decode_model(data: bytes, name: str = "the model") -> SavedModel:
    """Read the bytes of a model file; `name` is for error messages.

    Raises:
        ModelFileError: as in `load_model`.
    """
    description = describe_model(data, name)
    with torch.device("meta"):  # takes no memory; `assign` below uses the tensors of the file
        network = UNet(description.network)
    network.load_state_dict(load(data), assign=True)
    return SavedModel(network=network.eval(), description=description, sha256=hashlib.sha256(data).hexdigest())
