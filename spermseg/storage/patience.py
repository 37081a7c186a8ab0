"""Retries of transient storage errors: one time limit for local folders and S3, and a log line while waiting."""

import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    sleep_using_event,
    stop_after_delay,
    stop_any,
    stop_when_event_set,
    wait_random_exponential,
)

from spermseg.credentials import without_environment
from spermseg.errors import ConfigError, one_line

logger = logging.getLogger(__name__)

DEFAULT_PATIENCE_S = 600.0
TOLD_EVERY_S = 30.0
"""Seconds between two log lines."""


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long to retry transient errors. Waits are random, up to 1, 2, 4, ... seconds, so that workers spread out."""

    total_s: float = DEFAULT_PATIENCE_S
    """No attempt starts after this time, except the first."""
    longest_wait_s: float = 30.0
    """Longest wait between two attempts."""
    told_after_s: float = 5.0
    """A wait is logged after this time. Most waits are shorter."""
    silent: bool = False
    """Whether waits are not logged, for callers that log them themselves."""
    tell: Callable[[str], None] | None = field(default=None, compare=False)
    """Also receives the log line, where users do not see the log of this process."""
    guard: Callable[[], None] | None = field(default=None, compare=False)
    """Called before each attempt. An exception ends the attempts, for callers that may have lost a lock meanwhile."""

    def __post_init__(self) -> None:
        if not (0 <= self.total_s < math.inf and 0 < self.longest_wait_s < math.inf):
            raise ConfigError(f"got a patience of {self.total_s / 60:g} minutes; a finite number, 0 or more, is needed")

    def retrying(self, place: str, is_passing: Callable[[BaseException], bool]) -> Retrying:
        """Return a new tenacity controller, which calls a function with retries.

        Args:
            place: the place that is accessed, for the log line.
            is_passing: whether an error is transient, so that the same call may soon succeed.
        """
        return Retrying(
            sleep=sleep_using_event(_ends),
            stop=stop_any(stop_after_delay(self.total_s), stop_when_event_set(_ends)),
            wait=self._wait_s,
            retry=retry_if_exception(is_passing),
            before=self._before,
            before_sleep=None if self.silent else partial(_tell, place, self),
            reraise=True,
        )

    def _before(self, _: RetryCallState) -> None:
        if self.guard:
            self.guard()

    def _wait_s(self, call: RetryCallState) -> float:
        """Return the seconds to wait. The last wait is shortened, so that the last attempt starts at the limit."""
        drawn = wait_random_exponential(max=self.longest_wait_s)(call)
        return max(0.0, min(drawn, self.total_s - (call.seconds_since_start or 0.0)))


_ends = threading.Event()
"""Set when this process ends. Retries in all threads then give up, since the interpreter waits for its threads."""


def stop_waiting() -> None:
    """Make all retries of this process give up, now and in the future."""
    _ends.set()


def wait_again() -> None:
    """Undo `stop_waiting`."""
    _ends.clear()


class _Told:
    """When this process last logged a wait. Of many waiting threads, one logs."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = -math.inf

    def is_due(self) -> bool:
        """Return whether a line is due. If so, no further line is due for `TOLD_EVERY_S` seconds."""
        with self._lock:
            now = time.monotonic()
            if now - self._last < TOLD_EVERY_S:
                return False
            self._last = now
            return True


_told = _Told()


def _tell(place: str, waiting: Patience, call: RetryCallState) -> None:
    waited = call.seconds_since_start or 0.0
    error = call.outcome.exception() if call.outcome else None
    if waited < waiting.told_after_s or error is None:
        return
    left = spoken(max(0.0, waiting.total_s - waited))
    line = f"{place}: waiting for the storage, for up to {left} more: {without_environment(one_line(error))}"
    if say_that_somebody_waits(line) and waiting.tell:
        waiting.tell(line)


def say_that_somebody_waits(line: str) -> bool:
    """Log a line about a wait of this or another process, if one is due. Return whether it was logged."""
    if not _told.is_due():
        return False
    logger.warning("%s", line)
    return True


def spoken(seconds: float) -> str:
    """Return a duration as text for a message.

    >>> spoken(180), spoken(95), spoken(0.5)
    ('3 min', '95 s', '0.5 s')
    """
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s" if seconds >= 1 else f"{seconds:.1g} s"


_patience = Patience()


def patience() -> Patience:
    """Return the patience of this process: each call of the storage reads it, and work for other processes takes it."""
    return _patience


def be_patient(new: Patience) -> None:
    """Set the patience of this process."""
    global _patience
    _patience = new
