"""How far a training is, handed from the worker that knows to the process that shows it. No Ray: it is given calls."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from spermseg.errors import SpermsegError
from spermseg.training.fit import StepReport

logger = logging.getLogger(__name__)

REPORT_EVERY_S = 0.5


class Board:
    """Where the first worker writes how far it is, and the driver reads it."""

    def __init__(self) -> None:
        self.report: StepReport | None = None

    def post(self, report: StepReport) -> None:
        """Put a report in the place of the last one."""
        self.report = report

    def read(self) -> StepReport | None:
        """Return the last report, where there is one."""
        return self.report


def seldom(post: Callable[[StepReport], None]) -> Callable[[StepReport], None]:
    """Return `post` that leaves out what comes too soon after another report; the last step of an epoch never does."""
    last = -REPORT_EVERY_S

    def post_seldom(report: StepReport) -> None:
        nonlocal last
        if report.step == report.steps or time.monotonic() - last > REPORT_EVERY_S:
            last = time.monotonic()
            post(report)

    return post_seldom


@contextmanager
def shown(read: Callable[[], StepReport | None], on_report: Callable[[StepReport], None]) -> Iterator[None]:
    """Hand what is read to `on_report`, in a thread, until the block ends.

    Args:
        read: returns the last report; None where there is none, or it cannot be read now.
        on_report: called about twice a second.
    """
    done = threading.Event()

    def show() -> None:
        while not done.wait(REPORT_EVERY_S):
            if (report := read()) is not None:
                try:
                    on_report(report)
                except SpermsegError as error:  # the training goes on; what is written of it may be written next time
                    logger.warning("the progress could not be written: %s", error.message)

    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(timeout=10)
