"""The `spermseg` command: one subcommand a verb, one module a subcommand."""

import logging
import sys
from typing import Annotated, Protocol, TypeVar

import tyro

from spermseg import __version__
from spermseg.cli.demo import Demo
from spermseg.cli.evaluate import Evaluate
from spermseg.cli.prepare import Prepare
from spermseg.cli.report import Report
from spermseg.cli.segment import Segment
from spermseg.cli.train import Train
from spermseg.cli.verify import Verify
from spermseg.errors import RunError, SpermsegError

DESCRIPTION = f"""Sperm cell segmentation in digital micrographs, version {__version__}.

Annotated micrographs become a model:   prepare -> train -> evaluate
A clinic's uploads become a table:      segment -> verify -> report
To see all of it on drawn micrographs:  demo
"""
FAILED, WRONG_USE, INTERRUPTED = 1, 2, 130


class Verb(Protocol):
    """A subcommand: its fields are its arguments."""

    def run(self) -> int:
        """Do it, and return the exit status."""


Command = (
    Annotated[Prepare, tyro.conf.subcommand("prepare")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Segment, tyro.conf.subcommand("segment")]
    | Annotated[Verify, tyro.conf.subcommand("verify")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[Demo, tyro.conf.subcommand("demo")]
)
V = TypeVar("V", bound=Verb)


def main() -> None:
    """Run the `spermseg` command."""
    verb: Verb = tyro.cli(Command, prog="spermseg", description=DESCRIPTION)
    sys.exit(_run(verb))


def run_verb(verb: type[V]) -> None:
    """Run one verb as a program of its own, as the scripts in `jobs/` do."""
    sys.exit(_run(tyro.cli(verb)))


def _run(verb: Verb) -> int:
    """Run a verb; what the user can mend is one line, not a stack trace."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        return verb.run()
    except RunError as error:
        print(f"spermseg: {error.message}", file=sys.stderr)
        return FAILED
    except SpermsegError as error:
        print(f"spermseg: {error.message}", file=sys.stderr)
        return WRONG_USE
    except KeyboardInterrupt:
        print("spermseg: interrupted; what is written stays, and the same command goes on", file=sys.stderr)
        return INTERRUPTED
