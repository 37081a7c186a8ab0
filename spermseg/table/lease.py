"""One job at a time on a table: a lease, `OUT/lock.json`, which conditional writes let only one process make or renew.

The holder renews it; one that was not renewed for as long as it lasts has expired, and the next job takes it over by
itself, at once where its process is proven gone. No clocks are compared: whoever wants the table watches the file, and
counts by his own clock how long he sees it unchanged. A holder that was cut off for longer, and then is not alone, sees
at its next step that the lease is another's, and stops.
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
"""Renewals in the time that a lease lasts. Some of them may fail."""
LOOKS = 36
"""Looks at another's lease in that time, at least."""
LONGEST_LOOK_S = 2.0
TELL_AFTER_S = 3.0
"""A process that waits longer than this logs what it waits for."""


class Lease:
    """The lease of a table, held and renewed by this process while `hold_lease` is open."""

    def __init__(self, out: Location, arguments: Sequence[str] = ()) -> None:
        self.place = out.child("lock.json")
        """Where it lies."""
        self._mine = this_process(arguments)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        beat_s = self._mine.lasts_s / BEATS
        brief = Patience(total_s=min(beat_s, patience().total_s), longest_wait_s=beat_s / 3, silent=True)
        self._beat_s, self._briefly = beat_s, replace(self.place, patience=brief)

    def check(self) -> None:
        """See that the lease is still this process's.

        Raises:
            RunError: another job took it over, or somebody deleted it. This job must write nothing more.
        """
        found = find_holder(self.place)
        if not self._is_mine(found):
            now = f"now is that of {found.holder}" if found else "is gone"
            raise RunError(
                f"the lock of this job, {self.place.uri}, {now}; this job stops, and what it wrote stays: the job "
                "that took over goes on with it"
            )

    def fenced(self, place: Location) -> Location:
        """Return a place as one in which this job may change things: each attempt first sees that the lease is its own.

        Whoever waits for a storage may wait for longer than the lease lasts, and then is not alone. `check` and a
        change that waits after it would write over what the job did that took over.

        Args:
            place: of the table; the places below it are fenced, too.
        """
        return replace(place, patience=replace(place.patience or patience(), guard=self.check))

    def acquire(self, *, take_over: bool = False) -> None:
        """Make the lease, or take it over where it has expired, or its process is proven gone; and keep renewing it.

        Args:
            take_over: do not wait until it has expired, unless its process is proven to run.

        Raises:
            LockedError: another process holds it, and was seen to renew it.
            StorageError: it could not be read or written.
        """
        HELD.add(self._mine.token)
        while not self._try(take_over=take_over):
            take_over = False  # whoever came first is not gone
        self._thread.start()

    def _try(self, *, take_over: bool) -> bool:
        """Return whether the lease is this process's now; where another came first, things are to be looked at anew."""
        found = find_holder(self.place)
        if found is None:
            return self._make()
        if self._is_mine(found):  # a storage that answered too late was asked again
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
        """Watch another's lease until it has expired; return False where it was given up meanwhile.

        Only time counts in which the storage answered: while it does not, nobody can renew anything.

        Raises:
            LockedError: it was renewed, or is another's by now.
        """
        lasts_s = found.holder.lasts_s
        look_s = min(lasts_s / LOOKS, LONGEST_LOOK_S)
        idle_s, told, before = 0.0, False, time.monotonic()
        while idle_s < lasts_s:
            if idle_s >= TELL_AFTER_S and not told:
                told = True
                self._tell_waiting(found.holder)
            time.sleep(look_s)
            now = find_holder(self.place)
            if now is None:
                return False
            if now != found:
                raise LockedError(_locked(self.place, now.holder))
            passed, before = time.monotonic() - before, time.monotonic()
            idle_s += min(passed, 2 * look_s)
        return True

    def _keep(self) -> None:
        """Renew the lease until it is given up or lost; a storage that does not answer is asked at the next beat."""
        renewed, told = time.monotonic(), False
        while not self._ended.wait(self._beat_s):
            try:
                if not self._renew():
                    return  # the job sees it at its next step
            except StorageError as error:
                if not told:
                    self._tell_late(time.monotonic() - renewed, error)
                told = True
            else:
                if told:
                    logger.warning("%s: this job's lock is renewed again", self.place.uri)
                renewed, told = time.monotonic(), False

    def _renew(self) -> bool:
        """Renew the lease, and return whether it is still this process's.

        It is looked at before: a server may know no conditions, and an earlier renewal may have arrived though no
        answer did.
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
        """Delete the lease where it is still this process's; storage that fails meanwhile is a warning."""
        held = self._thread.ident is not None
        self._ended.set()
        if held:
            self._thread.join()
        HELD.discard(self._mine.token)
        try:
            if self._renew():  # nobody takes it over meanwhile, so what is deleted is this process's
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
            "%s: this job's lock was not renewed for %s, and is tried again every %s; after %s without, another job "
            "may take the table over; what else this job asks of the storage it tries for %s, and then stops: %s",
            *(self.place.uri, spoken(late_s), spoken(self._beat_s), spoken(self._mine.lasts_s)),
            *(spoken(patience().total_s), error.message),
        )

    def _tell_waiting(self, holder: Holder) -> None:
        logger.warning(
            "%s: this table is held by %s; waiting to see whether that job renews its lock: if not within %s, this one "
            "takes over",
            *(self.place.uri, holder, spoken(holder.lasts_s)),
        )


def _locked(place: Location, holder: Holder) -> str:
    return f"{place.uri}: this table is held by {holder}, which is at work: wait until it has ended, or end it"


@contextmanager
def hold_lease(out: Location, arguments: Sequence[str] = (), *, take_over: bool = False) -> Iterator[Lease]:
    """Hold the lease of a table; it is released however the work ends, unless the process is killed.

    Args:
        out: the table.
        arguments: the words of the command line, without secrets.
        take_over: do not wait until another's lease has expired, unless its process is proven to run.

    Raises:
        LockedError: another process holds it, and was seen to renew it.
        StorageError: it could not be read or written.
    """
    lease = Lease(out, arguments)
    try:
        lease.acquire(take_over=take_over)
        yield lease
    finally:
        lease.release()
