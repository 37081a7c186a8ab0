"""The model files of a command. They are checked before the imports of the command, which take seconds."""

from collections.abc import Sequence
from dataclasses import dataclass

import tyro

from spermseg.cli.arguments.options import PATIENCE_MINUTES
from spermseg.cli.terminal import unread
from spermseg.model.description import ModelDescription, describe_model, read_model
from spermseg.model.pretrained import model_location
from spermseg.storage.patience import Patience, be_patient

NO_FILES = (None, "pretrained", "scratch")


@dataclass(frozen=True, kw_only=True)
class _Given:
    """The options that name a model file, or that decide how it is read. They have the names of the verbs' options."""

    model: str | None = None
    init: str | None = None
    ignore_loose: str | None = None
    endpoint_url: str | None = None
    patience: float = PATIENCE_MINUTES


@dataclass(frozen=True)
class GivenModel:
    """The bytes and the description of a model file. Reading them needs no PyTorch."""

    uri: str
    data: bytes
    description: ModelDescription


def read_given_model(file: str | None, endpoint_url: str | None) -> GivenModel:
    """Return the model of `--model`.

    Raises:
        ModelFileError: the file is damaged, or is no model.
        ObjectMissingError: the file does not exist.
    """
    place = model_location(file, endpoint_url)
    data = read_model(place)
    return GivenModel(place.uri, data, describe_model(data, place.uri))


def check_given_models(words: Sequence[str]) -> None:
    """Check the model files that a command line names.

    Raises:
        ModelFileError: a file is damaged, or needs more memory than is allowed.
        ObjectMissingError: a file does not exist.
    """
    try:
        with unread():
            given, rest = tyro.cli(_Given, args=words, return_unknown_args=True, add_help=False)
    except SystemExit:  # the parser of the verb reports the error, with all options
        return
    if {"-h", "--help"} & set(rest):
        return
    be_patient(Patience(total_s=60 * given.patience))
    for file in (given.model, given.init, given.ignore_loose):
        if file not in NO_FILES:
            read_given_model(file, given.endpoint_url)
