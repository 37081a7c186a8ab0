"""Output of the commands: one line for each message, without control characters and without secrets."""

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
        lines: the texts. They may hold names from untrusted files.
        to: the stream; None is standard output.
    """
    for line in lines:
        print(without_environment(visible(line)), file=to, flush=True)


class OneLine(logging.Formatter):
    """Formats a log message as one line."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (the name in the library)
        """Return the line of a record."""
        return without_environment(visible(super().formatMessage(record)))

    def formatException(self, ei: Any) -> str:  # noqa: N802 (the name in the library)
        """Return the stack trace that a library logs."""
        return without_environment(super().formatException(ei))


@contextmanager
def unread() -> Iterator[None]:
    """Discard what is printed within the block."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        yield


def prepare_terminal() -> None:
    """Log warnings as lines. Escape characters that the encoding of the terminal lacks, instead of failing."""
    handler = logging.StreamHandler()
    handler.setFormatter(OneLine("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
