"""A network and its model file (`model.description`)."""

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
    """A network with its description and name."""

    network: UNet
    """In evaluation mode, on the CPU."""
    description: ModelDescription
    sha256: str
    """Digest of the file: the model's name in every result row."""


def encode_model(weights: dict[str, Tensor], description: ModelDescription) -> bytes:
    """Return the bytes of a model file; the same weights and description give the same bytes.

    Raises:
        ConfigError: a setting in the description is not what JSON can hold.
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
    """Yield tensors, on the CPU and contiguous, as they stand in a model file."""
    for name, tensor in tensors.items():
        yield name, str(tensor.dtype), list(tensor.shape), tensor.flatten().view(torch.uint8).numpy().data


def load_model(location: Location) -> SavedModel:
    """Read a model file.

    Raises:
        ModelFileError: not a safetensors file, damaged, not of spermseg, of a newer format, or its weights do not fit.
        ObjectMissingError: it is not there.
    """
    return decode_model(read_model(location), location.uri)


def decode_model(data: bytes, name: str = "the model") -> SavedModel:
    """Read the bytes of a model file; `name` is for error messages.

    Raises:
        ModelFileError: as `load_model`.
    """
    description = describe_model(data, name)
    with torch.device("meta"):  # no memory is taken: the weights bring theirs
        network = UNet(description.network)
    network.load_state_dict(load(data), assign=True)
    return SavedModel(network=network.eval(), description=description, sha256=hashlib.sha256(data).hexdigest())
