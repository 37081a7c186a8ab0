"""What the command says to a person: lines that no name can break, colour or hide, and that hold no secret."""

import io
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any, TextIO

from spermseg.credentials import without_environment
from spermseg.texts import visible


def say(*lines: str, to: TextIO | None = None) -> None:
    """Print each text as one line.

    Args:
        lines: the texts, with whatever names in them.
        to: standard output unless given.
    """
    for line in lines:
        print(without_environment(visible(line)), file=to, flush=True)


class OneLine(logging.Formatter):
    """Shows a message as one line, too."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (its name in the library)
        """Return the line of a record."""
        return without_environment(visible(super().formatMessage(record)))

    def formatException(self, ei: Any) -> str:  # noqa: N802 (its name in the library)
        """Return the stack trace that a library logs."""
        return without_environment(super().formatException(ei))


@contextmanager
def unread() -> Iterator[None]:
    """Let nobody read what is printed meanwhile."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        yield


def prepare_terminal() -> None:
    """Show warnings as lines, and let no letter that the terminal does not know end the command."""
    handler = logging.StreamHandler()
    handler.setFormatter(OneLine("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
