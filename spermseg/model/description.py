"""The description in a model file, and the checks of the file. This module does not import the slow PyTorch.

A model is one file: safetensors weights, with their description as JSON in the file's own metadata. It has no pickle.
The JSON also has a digest of the description and the weights, so a damaged file is recognised. The digest is not a
signature: anyone who can write the file can write the digest.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError
from safetensors import deserialize

from spermseg.cells.confidence import Confidence
from spermseg.cells.instances import CellConfig
from spermseg.errors import ConfigError, ModelFileError, ShapeError
from spermseg.micrograph.tiling import LONGEST_SIDE, Tiles, WholeFrame
from spermseg.model.unet_config import UNetConfig, check_knows_heads
from spermseg.storage.filesystem import Location

FORMAT_VERSION = 1
METADATA_KEY = "spermseg"
"""The only key of the metadata. With several keys, safetensors does not always write the same bytes."""
RGB = 3
DIGEST = "sha256"
"""Name of the digest beside the description's own fields."""
MESSAGE_LENGTH = 120
"""Characters of a parser's message that are shown."""
MODEL_BYTES = 512 * 2**20
"""Largest model file that is read. The file of the paper's network has 1.6 MB."""
HEADER_BYTES = 4 * 2**20
"""Largest header of the file. The header holds the escaped description and the offsets of the tensors."""
DESCRIPTION_BYTES = 2**20
"""Largest description that is parsed."""
DEPTH = 32
"""Deepest nesting of the settings of a training. The recipes nest 3 levels."""
WINDOW_BYTES = 8 * 2**30
"""Most memory that one window may take in the network."""
TYPES = {"F32": "torch.float32", "I64": "torch.int64", "F16": "torch.float16", "BF16": "torch.bfloat16"}
"""Type of a tensor in the file -> its name in PyTorch. A network has only the first two."""
Stored = tuple[str, str, list[int], bytes | memoryview]
"""Name, type as PyTorch calls it, shape and bytes of a tensor."""


@dataclass(frozen=True, kw_only=True)
class ModelDescription:
    """The description in a model file."""

    network: UNetConfig
    """The network's shape."""
    view: Annotated[WholeFrame | Tiles, Field(discriminator="kind")]
    """How the network sees a micrograph."""
    threshold: Annotated[float, Field(gt=0, lt=1)]
    """Probability from which a pixel is in the mask, 0-1."""
    min_area: Annotated[int, Field(ge=0, le=10**9)]
    """Least area of a cell, px at native resolution."""
    require_head: bool = False
    """Whether a component that is connected to no head is dropped; it needs the class `head`."""
    recipe: str
    """Name of the recipe that trained the model."""
    settings: dict[str, Any]
    """Every setting of the training."""
    training_data_sha256: str
    """Digest of the training dataset."""
    um_per_px: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Pixel size of the training pictures; None where unknown."""
    scores: dict[str, float] = field(default_factory=dict)
    """Scores on the validation split, at network resolution. The file has no scores that are NaN or infinite."""
    mask_agreement: Annotated[float, Field(ge=0, le=1)] | None = None
    """IoU of the model's masks in bfloat16 with those in float32, on the validation split (`model.precision`); None
    where unknown."""
    confidence: Confidence = field(default_factory=Confidence)
    """How the model predicts the Dice of its masks."""
    calibration_data_sha256: str = ""
    """Digest of the data that threshold, mask agreement and confidence are fitted to."""
    version: str = ""
    """Version of spermseg that trained the model."""
    format: int = FORMAT_VERSION
    """Version of this description."""

    def cells(
        self, *, threshold: float | None = None, min_area: int | None = None, require_head: bool | None = None
    ) -> CellConfig:
        """Return what counts as a cell. An argument that is None takes the model's own value.

        Raises:
            ConfigError: a number is out of its range, or heads are required and the network has not learned heads.
        """
        cells = CellConfig(
            threshold=self.threshold if threshold is None else threshold,
            min_area=self.min_area if min_area is None else min_area,
            require_head=self.require_head if require_head is None else require_head,
        )
        if cells.require_head:
            check_knows_heads(self.network.classes)
        return cells


DESCRIPTION = TypeAdapter(ModelDescription)
EARLIER_NAMES = {"headed": "require_head"}
"""Name of a field in files of earlier versions -> its present name."""


def read_model(location: Location) -> bytes:
    """Return the bytes of a model file, for `decode_model`.

    Raises:
        ModelFileError: the file is larger than any model.
        ObjectMissingError: there is no such file.
    """
    size = location.stat().size
    if size > MODEL_BYTES:
        raise ModelFileError(f"{location.uri} is not a model file: it has {size} bytes; at most {MODEL_BYTES} are read")
    return location.read_bytes()


def describe_model(data: bytes, name: str = "the model") -> ModelDescription:
    """Return the description of a model file, after checking that the file is whole and its weights fit.

    Args:
        data: the bytes of the file.
        name: of the model, for error messages.

    Raises:
        ModelFileError: the file is not a safetensors file, is damaged, is not of spermseg, has another format, has a
            description that cannot be used, or has weights that do not fit.
    """
    weights, text = _read_safetensors(data, name)
    fields, digest = _read_fields(text, name)
    if digest != digest_of(fields, weights):
        raise ModelFileError(f"{name} is damaged: its content does not fit its digest; copy it again")
    description = _read_description(fields, name)
    if description.network.layout != {one: (kind, tuple(shape)) for one, kind, shape, _ in weights}:
        raise ModelFileError(f"{name}: its weights do not fit the network of its description; train again")
    _check_view(description, name)
    return description


def digest_of(fields: dict[str, Any], weights: Iterable[Stored]) -> str:
    """Return the SHA-256 of the description and of every tensor's name, type, shape and bytes."""
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode())
    for name, kind, shape, data in sorted(weights, key=lambda one: one[0]):
        digest.update(json.dumps([name, kind, shape]).encode())
        digest.update(data)
    return digest.hexdigest()


def _read_safetensors(data: bytes, name: str) -> tuple[list[Stored], str | None]:
    """Return the tensors, and the description as text."""
    try:
        length = int.from_bytes(data[:8], "little")
        if length > HEADER_BYTES:
            raise ValueError(f"a header of {length} bytes; at most {HEADER_BYTES} are read")
        weights = [
            (one, TYPES.get(its["dtype"], its["dtype"]), list(its["shape"]), its["data"])
            for one, its in deserialize(data)  # type: ignore[no-untyped-call]
        ]
        return weights, json.loads(data[8 : 8 + length]).get("__metadata__", {}).get(METADATA_KEY)
    except Exception as error:  # untrusted bytes: besides its own errors, safetensors may raise others
        raise ModelFileError(
            f"{name} is not a model file or is damaged ({_brief(error)}); a .safetensors file written by "
            "`spermseg train` is needed"
        ) from error


def _read_fields(text: str | None, name: str) -> tuple[dict[str, Any], Any]:
    """Return the description's fields, and the digest."""
    if text is None:
        raise ModelFileError(f"{name} has no spermseg description; a file written by `spermseg train` is needed")
    if len(text) > DESCRIPTION_BYTES:
        raise ModelFileError(
            f"{name} has a description of {len(text)} characters; at most {DESCRIPTION_BYTES} are read"
        )
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{name} is damaged: its description is not JSON: {_brief(error)}") from error
    if not isinstance(fields, dict):
        raise ModelFileError(f"{name} is damaged: its description is no JSON object")
    if _is_deep(fields):
        raise ModelFileError(f"{name} has a description that is nested more than {DEPTH} deep; train again")
    if fields.get("format") != FORMAT_VERSION:
        raise ModelFileError(
            f"{name} has format {_brief(fields.get('format'))}; this version reads format {FORMAT_VERSION}"
        )
    return fields, fields.pop(DIGEST, None)


def _is_deep(fields: dict[str, Any]) -> bool:
    """Return whether JSON is nested so deeply that a recursive function may exceed Python's recursion limit."""
    level: list[Any] = [fields]
    for _ in range(DEPTH):
        containers = [item for item in level if isinstance(item, dict | list)]
        level = [one for item in containers for one in (item.values() if isinstance(item, dict) else item)]
    return bool(level)


def _read_description(fields: dict[str, Any], name: str) -> ModelDescription:
    try:
        return DESCRIPTION.validate_python({EARLIER_NAMES.get(one, one): value for one, value in fields.items()})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        problem = _brief(f"{'.'.join(map(str, first['loc']))}: {first['msg']}")
        raise ModelFileError(f"{name} has a description that cannot be used: {problem}") from error


def _check_view(description: ModelDescription, name: str) -> None:
    """Check that the network can read the windows of the view, and that a window fits in memory.

    Raises:
        ModelFileError: it cannot, or a window needs more than `WINDOW_BYTES`.
    """
    network, view = description.network, description.view
    if network.in_channels != RGB:
        raise ModelFileError(f"{name} reads pictures of {network.in_channels} channels; {RGB} are needed")
    side = view.tile if isinstance(view, WholeFrame) else 4 * LONGEST_SIDE  # a picture larger than any window
    try:
        layout = view.layout((side, side), reach=network.reach, window_px=1, multiple=network.multiple)
        network.check_size(*layout.window)
    except (ConfigError, ShapeError) as error:
        raise ModelFileError(f"{name} has a view that its network cannot read: {_brief(error)}") from error
    needed = layout.window[0] * layout.window[1] * network.bytes_a_pixel
    if needed > WINDOW_BYTES:
        raise ModelFileError(
            f"{name}: its network takes {needed / 2**30:.0f} GiB for a window of {layout.window[0]} x "
            f"{layout.window[1]} px; at most {WINDOW_BYTES / 2**30:.0f} GiB are given"
        )


def _brief(said: object) -> str:
    """Return a text of a file or a parser, cut to fit in one line: some parsers list every token that they accept."""
    text = "".join(letter if letter.isprintable() else " " for letter in str(said))
    return text if len(text) <= MESSAGE_LENGTH else f"{text[:MESSAGE_LENGTH]}..."
