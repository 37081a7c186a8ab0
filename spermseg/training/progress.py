"""The progress of a training, passed from the first worker to the driver. This module does not import Ray."""

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from spermseg.errors import SpermsegError
from spermseg.training.fit import StepReport

logger = logging.getLogger(__name__)

REPORT_EVERY_S = 0.5


class Board:
    """Holds the last report: the first worker writes it, and the driver reads it."""

    def __init__(self) -> None:
        self.report: StepReport | None = None

    def post(self, report: StepReport) -> None:
        """Replace the last report."""
        self.report = report

    def read(self) -> StepReport | None:
        """Return the last report; None where there is none."""
        return self.report


def seldom(post: Callable[[StepReport], None], every_s: float = REPORT_EVERY_S) -> Callable[[StepReport], None]:
    """Return a `post` that skips reports within `every_s` of the last one, except the last step of an epoch."""
    last = -math.inf

    def post_seldom(report: StepReport) -> None:
        nonlocal last
        if report.step == report.steps or time.monotonic() - last > every_s:
            last = time.monotonic()
            post(report)

    return post_seldom


@contextmanager
def shown(
    read: Callable[[], StepReport | None], on_report: Callable[[StepReport], None], every_s: float = REPORT_EVERY_S
) -> Iterator[None]:
    """Pass reports to `on_report`, in a thread, until the block ends.

    Args:
        read: returns the last report; None where there is none, or where it cannot be read now.
        on_report: called with the last report again and again.
        every_s: time between two calls.
    """
    done = threading.Event()

    def show() -> None:
        while not done.wait(every_s):
            if (report := read()) is not None:
                try:
                    on_report(report)
                except SpermsegError as error:  # the training goes on, and the next report may be written again
                    logger.warning("the progress could not be written: %s", error.message)

    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(timeout=10)
