"""The lease of a table, `OUT/lock.json`, so that one job at a time works on the table.

Conditional writes let only one process make or renew the lease. Its holder renews the lease again and again. A lease
that is not renewed in time expires, and the next job takes it over. If the process of the holder is proven to have
ended, the next job takes the lease over at once.

No clocks are compared. A job that waits for the table watches the file, and measures by its own clock how long the file
stays unchanged. A holder that was cut off from the storage for too long may have lost the lease. It notices this at its
next step, and stops.
"""

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeGuard

from spermseg.errors import (
    LockedError,
    ObjectChangedError,
    ObjectExistsError,
    ObjectMissingError,
    RunError,
    StorageError,
)
from spermseg.storage.filesystem import Location
from spermseg.storage.patience import Patience, patience, spoken
from spermseg.table.lease_holder import HELD, Found, Holder, encode_holder, find_holder, this_process

logger = logging.getLogger(__name__)

BEATS = 12
"""Number of renewals in the duration of a lease. Some of them may fail."""
LOOKS = 36
"""Least number of times that a waiting job looks at the lease in its duration."""
LONGEST_LOOK_S = 2.0
"""Longest time between two looks."""
TELL_AFTER_S = 3.0
"""Time after which a waiting job logs what it waits for."""


class Lease:
    """The lease of a table. This process holds and renews the lease while `hold_lease` is open.

    Args:
        out: the table.
        arguments: the words of the command line, without secrets. The file shows them to people.
    """

    def __init__(self, out: Location, arguments: Sequence[str] = ()) -> None:
        self.place = out.child("lock.json")
        """The file of the lease."""
        self._mine = this_process(arguments)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        beat_s = self._mine.lasts_s / BEATS
        brief = Patience(total_s=min(beat_s, patience().total_s), longest_wait_s=beat_s / 3, silent=True)
        self._beat_s, self._briefly = beat_s, replace(self.place, patience=brief)

    def check(self) -> None:
        """Check that this process still holds the lease.

        Raises:
            RunError: another job took the lease over, or somebody deleted it. This job must not write any more.
            StorageError: the lease could not be read.
        """
        found = find_holder(self.place)
        if not self._is_mine(found):
            now = f"now belongs to {found.holder}" if found else "is gone"
            who = "that job" if found else "the same command"
            raise RunError(
                f"the lock of this job, {self.place.uri}, {now}; this job stops, its results stay, and {who} continues"
            )

    def fenced(self, place: Location) -> Location:
        """Return a location for changes: each attempt to access it first checks that this process holds the lease.

        A request may wait for the storage for longer than the lease lasts, and another job may take the table over
        meanwhile. A single check before the request does not detect this.

        Args:
            place: a location in the table. The locations below the returned one are fenced, too.
        """
        return replace(place, patience=replace(place.patience or patience(), guard=self.check))

    def acquire(self, *, take_over: bool = False) -> None:
        """Acquire the lease, and renew it from now on.

        A lease of another process is taken over once it has expired, or at once if that process has ended.

        Args:
            take_over: whether not to wait until the lease has expired. A lease whose process runs is still respected.

        Raises:
            LockedError: another process holds the lease, and renewed it meanwhile.
            StorageError: the lease could not be read or written.
        """
        HELD.add(self._mine.token)
        while not self._try(take_over=take_over):
            take_over = False  # another job has just come first, and is at work
        self._thread.start()

    def _try(self, *, take_over: bool) -> bool:
        """Return whether this process holds the lease now. If not, the lease has changed, and must be read again."""
        found = find_holder(self.place)
        if found is None:
            return self._make()
        if self._is_mine(found):  # an earlier write succeeded, and its answer was lost
            return True
        runs = found.holder.runs
        if runs is False:
            return self._replace(found, "that process no longer runs")
        if take_over and not runs:
            return self._replace(found, "--take-over was given")
        return self._watch(found) and self._replace(found, f"it was not renewed for {spoken(found.holder.lasts_s)}")

    def _make(self) -> bool:
        try:
            self.place.write_bytes(encode_holder(self._mine), only_if_absent=True)
        except ObjectExistsError:
            return False
        return True

    def _replace(self, found: Found, why: str) -> bool:
        self._mine = replace(self._mine, number=found.holder.number + 1)
        try:
            self.place.write_bytes(encode_holder(self._mine), if_etag=found.etag)
        except (ObjectChangedError, ObjectMissingError):
            return False
        logger.warning("%s: this table is taken over from %s: %s", self.place.uri, found.holder, why)
        return True

    def _watch(self, found: Found) -> bool:
        """Wait until the lease of another process has expired. Return False if the lease was released meanwhile.

        Time in which the storage did not answer does not count, since nobody could renew the lease then.

        Raises:
            LockedError: the lease was renewed, or a third process has taken it over.
        """
        lasts_s = found.holder.lasts_s
        look_s = min(lasts_s / LOOKS, LONGEST_LOOK_S)
        idle_s, is_told, before = 0.0, False, time.monotonic()
        while idle_s < lasts_s:
            if idle_s >= TELL_AFTER_S and not is_told:
                is_told = True
                self._tell_waiting(found.holder)
            time.sleep(look_s)
            now = find_holder(self.place)
            if now is None:
                return False
            if now != found:
                raise LockedError(_locked(self.place, now.holder))
            passed, before = time.monotonic() - before, time.monotonic()
            idle_s += min(passed, 2 * look_s)  # a longer time means that the storage did not answer
        return True

    def _keep(self) -> None:
        """Renew the lease until it is released or lost. After a storage error, the next attempt is at the next beat."""
        renewed, is_told = time.monotonic(), False
        while not self._ended.wait(self._beat_s):
            try:
                if not self._renew():
                    return  # the job notices this at its next step
            except StorageError as error:
                if not is_told:
                    self._tell_late(time.monotonic() - renewed, error)
                is_told = True
            else:
                if is_told:
                    logger.warning("%s: this job's lock is renewed again", self.place.uri)
                renewed, is_told = time.monotonic(), False

    def _renew(self) -> bool:
        """Renew the lease, and return whether this process still holds it.

        The lease is read first, for two reasons. A server may ignore conditions. An earlier renewal may have been
        written although its answer was lost.
        """
        found = find_holder(self._briefly)
        if not self._is_mine(found):
            return False
        self._mine = replace(self._mine, renewals=found.holder.renewals + 1)
        try:
            self._briefly.write_bytes(encode_holder(self._mine), if_etag=found.etag)
        except (ObjectChangedError, ObjectMissingError):
            return False
        return True

    def _is_mine(self, found: Found | None) -> TypeGuard[Found]:
        return found is not None and found.holder.token == self._mine.token

    def release(self) -> None:
        """Delete the lease if this process still holds it. A storage error is logged as a warning."""
        held = self._thread.ident is not None
        self._ended.set()
        if held:
            self._thread.join()
        HELD.discard(self._mine.token)
        try:
            if self._renew():  # a fresh lease is not taken over, so the lease that is deleted is this one
                self._briefly.delete()
        except StorageError as error:
            if not held:
                return
            logger.warning(
                "%s: the lock could not be released, and expires by itself %s after its last renewal: %s",
                *(self.place.uri, spoken(self._mine.lasts_s), error.message),
            )

    def _tell_late(self, late_s: float, error: StorageError) -> None:
        logger.warning(
            "%s: this job's lock was not renewed for %s; a renewal is tried every %s. After %s without a renewal, "
            "another job may take the table over. This job retries its other requests for %s, and then stops: %s",
            *(self.place.uri, spoken(late_s), spoken(self._beat_s), spoken(self._mine.lasts_s)),
            *(spoken(patience().total_s), error.message),
        )

    def _tell_waiting(self, holder: Holder) -> None:
        logger.warning(
            "%s: this table is held by %s; waiting to see whether that job renews its lock: if not within %s, this job "
            "takes over",
            *(self.place.uri, holder, spoken(holder.lasts_s)),
        )


def _locked(place: Location, holder: Holder) -> str:
    return f"{place.uri}: this table is held by {holder}, which is at work: wait until it has ended, or end it"


@contextmanager
def hold_lease(out: Location, arguments: Sequence[str] = (), *, take_over: bool = False) -> Iterator[Lease]:
    """Hold the lease of a table in a `with` block. It is released at the end of the block, also after an error.

    A process that is killed cannot release its lease; this lease expires.

    Args:
        out: the table.
        arguments: the words of the command line, without secrets.
        take_over: whether not to wait until another lease has expired. A lease whose process runs is still respected.

    Raises:
        LockedError: another process holds the lease, and renewed it meanwhile.
        StorageError: the lease could not be read or written.
    """
    lease = Lease(out, arguments)
    try:
        lease.acquire(take_over=take_over)
        yield lease
    finally:
        lease.release()
