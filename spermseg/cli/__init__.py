"""The `spermseg` command. Each verb has a module, and only the module of the given verb is imported."""

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
from spermseg.cli.arguments.help_text import join_help_lines
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
from spermseg.storage.patience import Patience, be_patient, stop_waiting, wait_again
from spermseg.storage.permissions import owner_only
from spermseg.texts import is_text, visible

VERBS = {
    "prepare": "annotated micrographs -> a dataset: masks, and a split that cuts no patient",
    "train": "a dataset -> a model: one file, with curves and a model card",
    "calibrate": "a model -> the same model, with its threshold and confidence fitted to your own pictures",
    "preview": "a few pictures -> overlays to look at, in seconds, without a table",
    "evaluate": "a model and annotated pictures -> scores: IoU, Dice, precision, recall, overlays",
    "experiment": "repeat a published study on a dataset: its tables beside the published ones",
    "plan": "forecast what segmenting uploads will take: pictures, time, memory, size",
    "segment": "a clinic's uploads -> a table with one row for each micrograph, every night",
    "verify": "check that every planned upload has exactly one row",
    "report": "a table -> one HTML file with pictures, counts and warnings",
    "export": "a table -> one CSV or Parquet file, with a line for each micrograph or each cell",
    "demo": "all of this on synthetic micrographs: start here",
}
MODEL_VERBS = frozenset({"train", "calibrate", "evaluate", "plan", "preview", "segment", "verify"})
"""Verbs with an option that names a model file."""
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
"""Kind of error -> exit status. A subclass comes before its base class."""


class Verb(Protocol):
    """A verb. Its fields are its arguments. The optional text `GOES_ON` says how to continue after a stop."""

    def run(self) -> int:
        """Run the verb and return the exit status."""


def main() -> None:
    """Run the `spermseg` command."""
    parser = argparse.ArgumentParser(
        prog="spermseg",
        usage="spermseg VERB [-h] ...",
        description="Sperm cell segmentation in digital micrographs.",
        epilog="verbs:\n" + "\n".join(f"  {verb:<12}{what}" for verb, what in VERBS.items())
        + "\n\n`spermseg VERB --help` explains a verb and its options.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("verb", choices=VERBS, metavar="VERB", help="one of the verbs below")
    verb = parser.parse_args(
        [visible(masked(word)) for word in sys.argv[1:2]]
    ).verb  # argparse prints a word that it does not know
    run_verb(verb, sys.argv[2:], prog=f"spermseg {verb}")


def run_verb(verb: str | type[Verb], arguments: list[str] | None = None, prog: str | None = None) -> None:
    """Run one verb and exit with its status. An error that a user can correct is one line, without a stack trace.

    Args:
        verb: the name of the verb, or its class.
        arguments: the words of the command line; None takes those of this process.
        prog: the name of the command in its help.
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
    """Return the class of a verb. The given model files are checked first, because the imports take seconds."""
    if verb in MODEL_VERBS:
        importlib.import_module("spermseg.cli.arguments.models").check_given_models(words)
    found: type[Verb] = getattr(importlib.import_module(f"spermseg.cli.{verb}"), verb.capitalize())
    return found


def _parse(verb: type[Verb], words: list[str], prog: str | None) -> Verb:
    """Return a verb with its arguments. The parser prints wrong words, so it gets them without control characters.

    Raises:
        ConfigError: the words are wrong, and would be right without their control characters.
    """
    join_help_lines(verb)
    shown = [visible(word) for word in words]
    if shown == words:
        return tyro.cli(verb, args=words, prog=prog)
    with suppress(SystemExit), unread():
        return tyro.cli(verb, args=words, prog=prog)
    tyro.cli(verb, args=shown, prog=prog)
    raise ConfigError(f"got arguments that cannot be read: {' '.join(shown)}; leave out the control characters")


def _check_words(words: Sequence[str]) -> None:
    """Raise ConfigError if a word holds credentials or is no valid text, before anything prints or stores the word."""
    if found := secrets_among(words):
        where = ", ".join(dict.fromkeys(found.values()))
        raise ConfigError(
            f"{where}: got credentials, a signed address, or what may be either; others can see a command line, and "
            f"shells store it: {CREDENTIALS_ADVICE}, and the plain address"
        )
    for word in words:
        if not is_text(word):
            raise ConfigError(f"got {word}, a name that is not UTF-8; rename the file, or give a link to it")


@contextmanager
def _clean_stop_on_sigterm(terminated: Event) -> Iterator[None]:
    """Treat SIGTERM as Ctrl-C, so that open files and locks are released; and note that it came."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second signal must not interrupt the clean-up
        terminated.set()
        stop_waiting()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
