"""How long to try what may pass: a time, the same for a folder and for S3, and a line to the person who waits."""

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
FIRST_TOLD_S, TOLD_EVERY_S = 5.0, 30.0
"""A wait is told from so long on, for most are over before; and then no more often than so."""


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long to try what may pass; waits are random, up to 1, 2, 4, ... seconds, so that workers part."""

    total_s: float = DEFAULT_PATIENCE_S
    """No attempt begins after this; the first one always does."""
    longest_wait_s: float = 30.0
    """The most between two of them."""
    silent: bool = False
    """Whether no line tells the person who waits: for those who tell it themselves."""
    tell: Callable[[str], None] | None = field(default=None, compare=False)
    """What takes the line, too, where the person does not see what this process logs."""
    guard: Callable[[], None] | None = field(default=None, compare=False)
    """Called before each attempt; what it raises ends them all. For those who may not act any more after a wait."""

    def __post_init__(self) -> None:
        if not (0 <= self.total_s < math.inf and 0 < self.longest_wait_s < math.inf):
            raise ConfigError(f"got a patience of {self.total_s / 60:g} minutes; a finite number, 0 or more, is needed")

    def retrying(self, place: str, is_passing: Callable[[BaseException], bool]) -> Retrying:
        """Return a fresh caller of functions.

        Args:
            place: what is asked for, for the line to the person.
            is_passing: whether the same call may well succeed in a moment.
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
        """Return how long to wait now; the last attempt is made when the time is up, not a long wait later."""
        drawn = wait_random_exponential(max=self.longest_wait_s)(call)
        return max(0.0, min(drawn, self.total_s - (call.seconds_since_start or 0.0)))


_ends = threading.Event()
"""This process ends: whoever waits for a storage gives up, in threads as well, for which the interpreter would wait."""


def stop_waiting() -> None:
    """Let everybody give up who waits for a storage in this process, now and from now on."""
    _ends.set()


def wait_again() -> None:
    """Take `stop_waiting` back."""
    _ends.clear()


class _Told:
    """When somebody was last told that this process waits: of many threads that do, one says so."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = -math.inf

    def is_due(self) -> bool:
        """Whether it is time for a line; then it is not for a while."""
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
    if waited < FIRST_TOLD_S or error is None:
        return
    left = spoken(max(0.0, waiting.total_s - waited))
    line = f"{place}: waiting for the storage, for up to {left} more: {without_environment(one_line(error))}"
    if say_that_somebody_waits(line) and waiting.tell:
        waiting.tell(line)


def say_that_somebody_waits(line: str) -> bool:
    """Log a line, of this process or of another, unless one was logged a moment ago; return whether it was."""
    if not _told.is_due():
        return False
    logger.warning("%s", line)
    return True


def spoken(seconds: float) -> str:
    """Return a time in the words of a message.

    >>> spoken(180), spoken(95), spoken(0.5)
    ('3 min', '95 s', '0.5 s')
    """
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s" if seconds >= 1 else f"{seconds:.1g} s"


PATIENCE = Patience()
"""This process's: the storage asks for it at each call. `be_patient` sets it, `patience` tells it to those who send
work to other processes."""


def patience() -> Patience:
    """Return how long this process tries what may pass."""
    return PATIENCE


def be_patient(new: Patience) -> None:
    """Set how long this process tries what may pass."""
    global PATIENCE
    PATIENCE = new
