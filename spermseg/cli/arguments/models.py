"""The model files that a command names are looked at first: a damaged one is told before seconds of imports."""

from collections.abc import Sequence
from dataclasses import dataclass

import tyro

from spermseg.cli.arguments.options import PATIENCE_MINUTES
from spermseg.cli.terminal import unread
from spermseg.model.description import describe_model, read_model
from spermseg.storage.filesystem import Location
from spermseg.storage.patience import Patience, be_patient

NO_FILES = (None, "pretrained", "scratch")


@dataclass(frozen=True, kw_only=True)
class _Given:
    """The options of all verbs that name a model, or say how one is read. They are as in the verbs."""

    model: str | None = None
    init: str | None = None
    ignore_loose: str | None = None
    endpoint_url: str | None = None
    patience: float = PATIENCE_MINUTES


def check_given_models(words: Sequence[str]) -> None:
    """See that the model files that a command line names are whole, and ask no more than a machine has.

    Raises:
        ModelFileError: one is not.
        ObjectMissingError: one is not there.
    """
    try:
        with unread():
            given, rest = tyro.cli(_Given, args=words, return_unknown_args=True, add_help=False)
    except SystemExit:  # the verb's own parser tells what is wrong, and how all options are called
        return
    if {"-h", "--help"} & set(rest):
        return
    be_patient(Patience(total_s=60 * given.patience))
    for file in (given.model, given.init, given.ignore_loose):
        if file not in NO_FILES:
            place = Location(file, given.endpoint_url)
            describe_model(read_model(place), place.uri)
