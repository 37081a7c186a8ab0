"""The `spermseg` command: one verb a module, and only the module of the verb in hand is imported."""

import argparse
import importlib
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from threading import Event
from types import FrameType
from typing import Protocol

import tyro

from spermseg import __version__
from spermseg.cli.terminal import prepare_terminal, say, unread
from spermseg.credentials import CREDENTIALS_ADVICE, masked, secrets_among
from spermseg.errors import (
    ConfigError,
    LockedError,
    ObjectDeniedError,
    ObjectExistsError,
    ObjectMissingError,
    RunError,
    SpermsegError,
    StorageError,
    StorageRefusedError,
    TooManyRejectedError,
)
from spermseg.storage.modes import owner_only
from spermseg.storage.patience import Patience, be_patient, stop_waiting, wait_again
from spermseg.texts import is_text, visible

VERBS = {
    "prepare": "annotated micrographs -> a dataset: masks, and a split that cuts no patient",
    "train": "a dataset -> a model: one file, with curves and a model card",
    "calibrate": "a model -> the same, with the threshold and the confidence that fit one's own pictures",
    "preview": "a few pictures -> outlines to look at, in seconds, without a table",
    "evaluate": "a model against annotated pictures: IoU, Dice, precision, recall, overlays",
    "experiment": "a published study, done again on a dataset: its tables beside the published ones",
    "plan": "what segmenting a clinic's uploads will take: pictures, time, memory, size",
    "segment": "a clinic's uploads -> a table: one row a micrograph, every night",
    "verify": "the proof that every planned upload has exactly one row",
    "report": "a table -> one HTML file to look at",
    "export": "a table -> one CSV or Parquet file: a line a micrograph, or a line a cell",
    "demo": "all of it, on synthetic micrographs: start here",
}
MODEL_VERBS = frozenset({"train", "calibrate", "evaluate", "plan", "preview", "segment", "verify"})
"""Those that are given a model."""
FAILED, WRONG_USE, LOCKED, TOO_MANY_REJECTED, INTERRUPTED, TERMINATED = 1, 2, 3, 4, 130, 143
STATUSES = {
    LockedError: LOCKED,
    TooManyRejectedError: TOO_MANY_REJECTED,
    RunError: FAILED,
    ObjectMissingError: WRONG_USE,
    ObjectDeniedError: WRONG_USE,
    ObjectExistsError: WRONG_USE,
    StorageRefusedError: WRONG_USE,
    StorageError: FAILED,
    SpermsegError: WRONG_USE,
}
"""Kind of error, the special ones first -> exit status."""


class Verb(Protocol):
    """One verb: its fields are its arguments. `GOES_ON`, where it has one, says how to go on after a stop."""

    def run(self) -> int:
        """Do it, and return the exit status."""


def main() -> None:
    """Run the `spermseg` command."""
    parser = argparse.ArgumentParser(
        prog="spermseg",
        usage="spermseg VERB [-h] ...",
        description="Sperm cell segmentation in digital micrographs.",
        epilog="verbs:\n" + "\n".join(f"  {verb:<12}{what}" for verb, what in VERBS.items())
        + "\n\n`spermseg VERB --help` tells more of each.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("verb", choices=VERBS, metavar="VERB", help="what to do, as below")
    verb = parser.parse_args([visible(masked(word)) for word in sys.argv[1:2]]).verb  # it shows what it does not know
    run_verb(verb, sys.argv[2:], prog=f"spermseg {verb}")


def run_verb(verb: str | type[Verb], arguments: list[str] | None = None, prog: str | None = None) -> None:
    """Run one verb and exit with its status; what the user can mend is one line, not a stack trace.

    Args:
        verb: its name, or its class.
        arguments: the words of the command line; None takes the program's own.
        prog: how the command is called in its help.
    """
    prepare_terminal()
    terminated = Event()
    wait_again()
    words = sys.argv[1:] if arguments is None else arguments
    try:
        _check_words(words)
        with _clean_stop_on_sigterm(terminated), owner_only():
            verb = _import(verb, words) if isinstance(verb, str) else verb
            given = _parse(verb, words, prog)
            if (minutes := getattr(given, "patience", None)) is not None:
                be_patient(Patience(total_s=60 * minutes))
            status = given.run()
    except SpermsegError as error:
        stop_waiting()
        say(f"spermseg: {error.message}", to=sys.stderr)
        status = next(status for kind, status in STATUSES.items() if isinstance(error, kind))
    except KeyboardInterrupt:
        stop_waiting()
        how = "terminated" if terminated.is_set() else "interrupted"
        goes_on = getattr(verb, "GOES_ON", "the same command goes on")
        say(f"spermseg: {how}; what is written stays, and {goes_on}", to=sys.stderr)
        status = TERMINATED if terminated.is_set() else INTERRUPTED
    sys.exit(status)


def _import(verb: str, words: list[str]) -> type[Verb]:
    """Return a verb's class; the models that it is given are looked at before, since its imports take seconds."""
    if verb in MODEL_VERBS:
        importlib.import_module("spermseg.cli.arguments.models").check_given_models(words)
    found: type[Verb] = getattr(importlib.import_module(f"spermseg.cli.{verb}"), verb.capitalize())
    return found


def _parse(verb: type[Verb], words: list[str], prog: str | None) -> Verb:
    """Return a verb with its arguments; where they are wrong, the parser shows the words, but not as a terminal acts.

    Raises:
        ConfigError: they are wrong as they are, and would not be wrong as they are shown.
    """
    shown = [visible(word) for word in words]
    if shown == words:
        return tyro.cli(verb, args=words, prog=prog)
    with suppress(SystemExit), unread():
        return tyro.cli(verb, args=words, prog=prog)
    tyro.cli(verb, args=shown, prog=prog)
    raise ConfigError(f"got arguments that cannot be read: {' '.join(shown)}; leave out what is no letter")


def _check_words(words: Sequence[str]) -> None:
    """Raise ConfigError where a word holds credentials, or is no text, before anything shows or keeps it."""
    if found := secrets_among(words):
        where = ", ".join(dict.fromkeys(found.values()))
        raise ConfigError(
            f"{where}: got credentials, a signed address, or what may be either; a command line is seen by others, and "
            f"kept: {CREDENTIALS_ADVICE}, and the plain address"
        )
    for word in words:
        if not is_text(word):
            raise ConfigError(
                f"got {word}, a name that is not UTF-8, and cannot be noted; rename it, or give a link to it"
            )


@contextmanager
def _clean_stop_on_sigterm(terminated: Event) -> Iterator[None]:
    """End as on Ctrl-C where a scheduler asks the process to end, and note it: what is open is closed on the way."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: the way out is not to be cut short
        terminated.set()
        stop_waiting()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
